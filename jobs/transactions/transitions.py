"""The only statements that change a job: along a transition of ``jobs.states``, or within an attempt that holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, null, select, update
from sqlalchemy import insert as plain_insert

from collegium.jobs.database.engine import Database, insert, now
from collegium.jobs.database.json_text import decode, encode
from collegium.jobs.database.schema import counters, events, jobs
from collegium.jobs.errors import JobNotFound, Superseded
from collegium.jobs.record import Failure, Job
from collegium.jobs.states import HELD, Transition

JOB_FIELDS = tuple(Job.__dataclass_fields__)
JOB_COLUMNS = tuple(jobs.c[name.removesuffix("_text")] for name in JOB_FIELDS)


def job_of(row: Row[Any]) -> Job:
    """The record of a row that holds ``JOB_COLUMNS``."""
    fields = dict(zip(JOB_FIELDS, row, strict=True))
    fields["result"] = fields["result"] and decode(fields["result"])
    fields["failure"] = fields["failure"] and Failure(**decode(fields["failure"]))
    return Job(**fields)


@contextmanager
def fenced(database: Database) -> Iterator[Connection]:
    """A write by an attempt. A superseded attempt changes nothing but a counter."""
    try:
        with database.write() as connection:
            yield connection
    except Superseded:
        with database.write() as connection:
            count(connection, FENCED_WRITES)
        raise


def hold(connection: Connection, job_id: str, attempt: int) -> Job:
    """Lock the job for this attempt until the transaction ends. Raises Superseded, JobNotFound."""
    query = select(*JOB_COLUMNS).where(jobs.c.id == job_id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    if row.attempt != attempt or row.status not in HELD:
        raise Superseded(job_id, attempt)
    return job_of(row)


def change(connection: Connection, job_id: str, attempt: int, *returning: Any, **values: Any) -> Row[Any]:
    """Set fields of a job that the attempt holds, its status aside. Raises Superseded, JobNotFound."""
    statement = update(jobs).where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status.in_(HELD))
    row = connection.execute(statement.values(**values).returning(*returning)).one_or_none()
    if row is None:
        hold(connection, job_id, attempt)
        raise Superseded(job_id, attempt)
    return row


def move(
    connection: Connection,
    job_id: str,
    transition: Transition,
    *,
    detail: Mapping[str, Any] | None = None,
    **values: Any,
) -> Job | None:
    """Make a transition if the job is still in its source state, and record a state event; None otherwise."""
    if transition.target == "queued":
        values |= {"queued_at": now(), "hinted_at": now()}
    elif transition.source == "queued":
        values |= {"queued_at": null(), "hinted_at": null()}
    if transition.target not in HELD:
        values |= {"lease_until": null(), "worker": null()}
    statement = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status == transition.source)
        .values(status=transition.target, updated_at=now(), revision=jobs.c.revision + 1, **values)
        .values(last_seq=jobs.c.last_seq + 1)
        .returning(*JOB_COLUMNS)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    job = job_of(row)
    data = {"status": job.status, "attempt": job.attempt, **(detail or {})}
    insert_events(connection, job_id, job.last_seq, [("state", encode(data))])
    return job


def insert_events(connection: Connection, job_id: str, last_seq: int, entries: Sequence[tuple[str, str]]) -> None:
    """Write entries whose numbers end at ``last_seq``. The caller holds the job's row, so numbers appear in order."""
    first = last_seq - len(entries) + 1
    rows = [
        {"job_id": job_id, "seq": first + index, "type": type, "data": data}
        for index, (type, data) in enumerate(entries)
    ]
    connection.execute(plain_insert(events).values(at=now()), rows)


LEASE_EXPIRIES = "lease_expiries"
FENCED_WRITES = "fenced_writes"


def count(connection: Connection, *names: str) -> None:
    """Add one to each, at the end of a transaction and in one order, so that two transactions never cross."""
    for name in sorted(names):
        fresh = insert(connection, counters).values(name=name, value=1)
        connection.execute(fresh.on_conflict_do_update(index_elements=["name"], set_={"value": counters.c.value + 1}))


def read_counters(connection: Connection) -> dict[str, int]:
    """All of them, by name."""
    return {row.name: row.value for row in connection.execute(select(counters).order_by(counters.c.name))}
