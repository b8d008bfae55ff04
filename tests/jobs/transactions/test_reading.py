import pytest

from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import Artifact


def test_unknown_ids_are_not_found_whatever_they_hold(store):
    for job_id in ("nobody", "", "a\0b", "\ud800", "x" * 100_000):
        with pytest.raises(JobNotFound) as caught:
            store.get(job_id)
        assert caught.value.job_id == job_id
        with pytest.raises(JobNotFound):
            store.artifacts(job_id)


def test_an_answer_is_found_by_its_fingerprint(store, running, queued):
    assert store.find_succeeded("f") is None
    waiting = queued(fingerprint="f")
    assert store.find_succeeded("f") is None
    older, newer = running(fingerprint="f"), running(fingerprint="f")
    store.succeed(newer.id, 1, {"n": 1})
    assert store.find_succeeded("f").id == newer.id
    store.succeed(older.id, 1, {"n": 2})
    assert store.find_succeeded("f") == store.get(older.id)
    assert store.find_succeeded("g") is None
    assert store.get(waiting.id).status == "queued"


def test_artifacts_come_by_name(store, running):
    job = running()
    files = [Artifact(name, 1, "00", "text/plain", f"x/1/{name}") for name in ("b", "a", "Z/c")]
    store.succeed(job.id, 1, {}, files)
    assert {artifact.name for artifact in store.artifacts(job.id)} == {"a", "b", "Z/c"}
    assert store.artifact(job.id, "b") == files[0]
    assert store.artifact(job.id, "nothing") is None
    assert store.artifact("nobody", "b") is None


def test_an_empty_job_has_no_artifacts(store, queued):
    assert store.artifacts(queued().id) == []


def test_the_database_answers(store):
    store.ping()
