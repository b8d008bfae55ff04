from datetime import timedelta

import pytest

from collegium.jobs.errors import CancelNotRequested, JobNotFound, NotStorable, Superseded
from collegium.jobs.record import Artifact, Failure

FILE = Artifact("model.safetensors", 2**40, "ab" * 32, "application/octet-stream", "job/1/model.safetensors")
FAILURE = Failure("internal", "it broke", "mend it", "Traceback …")


def last(store, job):
    return store.events(job.id)[-1].data


def test_claim_takes_a_queued_job_once(store, queued):
    job = queued()
    claimed = store.claim(job.id, "worker-1", 30)
    assert (claimed.status, claimed.attempt, claimed.worker) == ("running", 1, "worker-1")
    assert claimed.lease_until - claimed.started_at == timedelta(seconds=30)
    assert claimed.revision == job.revision + 1
    assert store.get(job.id) == claimed
    assert last(store, job) == {"status": "running", "attempt": 1, "worker": "worker-1"}
    assert store.claim(job.id, "worker-2", 30) is None
    assert store.claim("nobody", "worker-2", 30) is None
    assert store.get(job.id) == claimed


def test_a_lease_is_a_duration(store, queued):
    job = queued()
    for lease in (-1, float("nan"), float("inf"), 1e9):
        with pytest.raises(ValueError, match="duration"):
            store.claim(job.id, "worker", lease)
    assert store.get(job.id).status == "queued"


def test_claim_next_takes_the_oldest_of_its_queue(store, queued):
    first, other, second = queued(), queued(queue="train"), queued()
    assert store.next_queued("search") == first.id
    assert store.claim_next("search", "w", 30).id == first.id
    assert store.claim_next("search", "w", 30).id == second.id
    assert store.claim_next("search", "w", 30) is None
    assert store.next_queued("search") is None
    assert store.claim_next("train", "w", 30).id == other.id


def test_claim_child_takes_only_children(store, running, queued):
    parent = running()
    queued()
    assert store.claim_child(parent.id, "w", 30) is None
    child, _ = store.create("shard", {}, queue="search", parent_id=parent.id, child_key="0")
    assert store.claim_child(parent.id, "w", 30).id == child.id
    assert store.claim_child(parent.id, "w", 30) is None


def test_heartbeat_renews_the_lease_and_nothing_else_that_shows(store, running, expire):
    job = running()
    expire(job)
    assert not store.heartbeat(job.id, 1, 500).cancel_requested
    renewed = store.get(job.id)
    assert renewed.lease_until > job.lease_until
    assert (renewed.revision, renewed.updated_at, renewed.last_seq) == (
        job.revision,
        job.updated_at,
        job.last_seq,
    )
    assert store.reap().expired == ()
    store.request_cancel(job.id)
    assert store.heartbeat(job.id, 1, 500).cancel_requested


def test_success_publishes_result_and_files_together(store, running):
    job = running(max_attempts=1)
    done = store.succeed(job.id, 1, {"alpha": 1.25, "curve": []}, [FILE])
    assert (done.status, done.result, done.fraction) == ("succeeded", {"alpha": 1.25, "curve": []}, 1.0)
    assert (done.failure, done.lease_until, done.worker, done.terminal) == (None, None, None, True)
    assert done.created_at <= done.started_at <= done.finished_at
    assert store.get(job.id) == done
    assert store.artifacts(job.id) == [FILE]
    event = store.events(job.id)[-1]
    assert event.terminal
    assert (event.seq, event.data) == (done.last_seq, {"status": "succeeded", "attempt": 1})
    assert store.metrics().counters == {"attempts.succeeded": 1}


def test_a_result_that_is_no_json_is_refused_and_the_attempt_goes_on(store, running):
    job = running()
    with pytest.raises(NotStorable):
        store.succeed(job.id, 1, {"loss": float("nan")}, [FILE])
    assert store.get(job.id).status == "running"
    assert store.artifacts(job.id) == []


def test_a_failure_is_kept_with_its_files(store, running):
    job = running()
    failed = store.fail(job.id, 1, FAILURE, retry=False, artifacts=[FILE])
    assert (failed.status, failed.failure, failed.result) == ("failed", FAILURE, None)
    assert store.get(job.id) == failed
    assert store.artifacts(job.id) == [FILE]
    assert last(store, job) == {"status": "failed", "attempt": 1, "failure": FAILURE.as_dict()}
    assert store.metrics().counters == {"attempts.failed.internal": 1}


def test_a_failure_that_may_pass_is_tried_again_while_attempts_are_left(store, running):
    job = running(max_attempts=2)
    store.report(job.id, 1, 0.5, "half")
    again = store.fail(job.id, 1, FAILURE, retry=True, artifacts=[FILE])
    assert (again.status, again.failure, again.attempts_left, again.fraction) == ("queued", None, 1, 0.5)
    assert again.message == "attempt 1 failed (it broke); waiting for another"
    assert (again.worker, again.lease_until, again.finished_at) == (None, None, None)
    assert last(store, job) == {"status": "queued", "attempt": 1, "failure": FAILURE.as_dict()}
    assert store.artifacts(job.id) == []
    second = store.claim(job.id, "w", 30)
    assert (second.attempt, second.started_at) == (2, job.started_at)
    assert store.fail(job.id, 2, FAILURE, retry=True).status == "failed"


def test_cancelling_ends_as_cancelled_with_the_last_checkpoint(store, running):
    job = running()
    store.request_cancel(job.id)
    stopped = store.finish_cancelled(job.id, 1, [FILE])
    assert (stopped.status, stopped.failure, stopped.result) == ("cancelled", None, None)
    assert stopped.finished_at is not None
    assert store.artifacts(job.id) == [FILE]
    assert store.events(job.id)[-1].terminal
    assert store.metrics().counters == {"attempts.cancelled": 1}


def test_an_attempt_cannot_cancel_without_a_request(store, running):
    job = running()
    with pytest.raises(CancelNotRequested):
        store.finish_cancelled(job.id, 1)
    assert store.get(job.id) == job


def test_a_result_that_came_before_the_request_was_seen_is_kept(store, running):
    job = running()
    store.request_cancel(job.id)
    assert store.succeed(job.id, 1, {"alpha": 1}).status == "succeeded"


def test_a_failure_while_cancelling_is_the_cancellation(store, running):
    for retry in (True, False):
        job = running()
        store.request_cancel(job.id)
        stopped = store.fail(job.id, 1, FAILURE, retry=retry, artifacts=[FILE])
        assert (stopped.status, stopped.failure) == ("cancelled", None)
        assert last(store, job)["failure"] == FAILURE.as_dict()
        assert store.artifacts(job.id) == [FILE]


def test_release_does_not_count_as_an_attempt_but_fences_it(store, running):
    job = running(max_attempts=1)
    for attempt in (1, 2, 3):
        released = store.release(job.id, attempt)
        assert (released.status, released.attempts_left) == ("queued", 1)
        with pytest.raises(Superseded):
            store.release(job.id, attempt)
        assert store.claim(job.id, "w", 30).attempt == attempt + 1
    assert store.fail(job.id, 4, FAILURE, retry=True).status == "failed"
    assert store.metrics().counters == {
        "attempts.failed.internal": 1,
        "attempts.released": 3,
        "fenced_writes": 3,
    }


def test_release_while_cancelling_ends_the_job(store, running):
    job = running()
    store.request_cancel(job.id)
    assert store.release(job.id, 1).status == "cancelled"


WRITES = {
    "heartbeat": lambda store, job_id, attempt: store.heartbeat(job_id, attempt, 30),
    "report": lambda store, job_id, attempt: store.report(job_id, attempt, 0.5, "half"),
    "append_event": lambda store, job_id, attempt: store.append_event(job_id, attempt, "log", {}),
    "succeed": lambda store, job_id, attempt: store.succeed(job_id, attempt, {}, [FILE]),
    "fail": lambda store, job_id, attempt: store.fail(job_id, attempt, FAILURE, retry=True),
    "fail for good": lambda store, job_id, attempt: store.fail(job_id, attempt, FAILURE, retry=False, artifacts=[FILE]),
    "finish_cancelled": lambda store, job_id, attempt: store.finish_cancelled(job_id, attempt, [FILE]),
    "release": lambda store, job_id, attempt: store.release(job_id, attempt),
    "fan_out": lambda store, job_id, attempt: store.fan_out(job_id, attempt, []),
}


def test_no_write_passes_the_fence(store, running, queued):
    taken_over = running()
    store.release(taken_over.id, 1)
    store.claim(taken_over.id, "another", 60)
    waiting = queued()
    ended = {
        "succeeded": store.succeed(running().id, 1, {}),
        "failed": store.fail(running().id, 1, FAILURE, retry=False),
        "cancelled": store.request_cancel(queued().id),
    }
    refused = 0
    for write in WRITES.values():
        for job_id, attempt in [
            (taken_over.id, 1),
            (taken_over.id, 3),
            (waiting.id, 0),
            (waiting.id, 1),
            *((job.id, job.attempt) for job in ended.values()),
        ]:
            before, events = store.get(job_id), store.events(job_id)
            with pytest.raises(Superseded) as caught:
                write(store, job_id, attempt)
            assert (caught.value.job_id, caught.value.attempt) == (job_id, attempt)
            assert store.get(job_id) == before
            assert store.events(job_id) == events
            assert store.artifacts(job_id) == []
            refused += 1
        with pytest.raises(JobNotFound):
            write(store, "nobody", 1)
    assert store.metrics().counters["fenced_writes"] == refused


def test_terminal_states_are_absorbing(store, running, queued, expire):
    for job in (
        store.succeed(running().id, 1, {}),
        store.fail(running().id, 1, FAILURE, retry=False),
        store.request_cancel(queued().id),
    ):
        expire(job)
        assert store.claim(job.id, "w", 30) is None
        assert store.request_cancel(job.id) == job
        assert job.id not in {hint.id for hint in store.publishable(0)}
    assert store.claim_next("search", "w", 30) is None
    reaped = store.reap()
    assert (reaped.expired, reaped.failed, reaped.cancelled) == ((), (), ())
