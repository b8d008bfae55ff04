import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import Artifact
from collegium.jobs.transactions.reading import latest_success


def test_unknown_ids_are_not_found_whatever_they_hold(store):
    for job_id in ("missing", "", "a\0b", "\ud800", "x" * 100_000):
        with pytest.raises(JobNotFound) as caught:
            store.get(job_id)
        assert caught.value.job_id == job_id
        with pytest.raises(JobNotFound):
            store.artifacts(job_id)


def test_the_latest_success_is_found_by_its_fingerprint(store, running, queued):
    def find(fingerprint):
        with store.database.read() as connection:
            return latest_success(connection, fingerprint)

    assert find("f") is None
    waiting = queued(fingerprint="f")
    assert find("f") is None
    older, newer = running(fingerprint="f"), running(fingerprint="f")
    store.succeed(newer.id, 1, {"n": 1})
    assert find("f").id == newer.id
    store.succeed(older.id, 1, {"n": 2})
    assert find("f") == store.get(older.id)
    assert find("g") is None
    assert find(None) is None
    assert store.get(waiting.id).status == "queued"


def test_artifacts_come_by_name(store, running):
    job = running()
    files = [Artifact(name, 1, "00", "text/plain", f"x/1/{name}") for name in ("b", "a", "Z/c")]
    store.succeed(job.id, 1, {}, files)
    assert {artifact.name for artifact in store.artifacts(job.id)} == {"a", "b", "Z/c"}
    assert store.artifact(job.id, "b") == files[0]
    assert store.artifact(job.id, "nothing") is None
    assert store.artifact("missing", "b") is None


def test_an_empty_job_has_no_artifacts(store, queued):
    assert store.artifacts(queued().id) == []


def test_ping_makes_one_round_trip_to_the_database(store):
    executed = []
    event.listen(store.engine, "after_cursor_execute", lambda *_, **__: executed.append(_[2]))
    assert store.ping() is None
    assert executed[-1:] == ["SELECT 1"]


def test_ping_raises_while_the_database_is_unavailable(store, monkeypatch):
    def refuse(*_, **__):
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr(store.engine, "connect", refuse)
    with pytest.raises(UNAVAILABLE):
        store.ping()
