"""A store on each database, and the hands of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import update

from collegium.jobs.database.engine import open_engine
from collegium.jobs.database.schema import jobs
from collegium.jobs.record import Job
from collegium.jobs.store import JobStore


@pytest.fixture
def store(database_url: str) -> Iterator[JobStore]:
    """An empty store, on SQLite and on PostgreSQL."""
    store = JobStore(open_engine(database_url))
    yield store
    store.close()


@pytest.fixture
def queued(store: JobStore) -> Callable[..., Job]:
    """Create a queued search; keywords as for ``create``."""
    return lambda **options: store.create("search", {"n": 1}, **{"queue": "search", **options})[0]


@pytest.fixture
def running(store: JobStore, queued: Callable[..., Job]) -> Callable[..., Job]:
    """Create a search and claim it for a worker; keywords as for ``create``."""

    def start(**options) -> Job:
        job = store.claim(queued(**options).id, "worker", 60)
        assert job is not None
        return job

    return start


@pytest.fixture
def expire(store: JobStore) -> Callable[[Job], None]:
    """Let an hour pass for a job: its lease has run out, its message was sent long ago."""
    hour = 3_600_000_000

    def pass_time(job: Job) -> None:
        with store.database.write() as connection:
            columns = {name: jobs.c[name] - hour for name in ("lease_until", "hinted_at", "queued_at")}
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(**columns))

    return pass_time
