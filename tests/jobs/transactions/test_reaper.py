import pytest

from collegium.jobs.errors import Superseded
from collegium.jobs.record import Child, Failure, Hint


def test_a_lost_worker_gives_its_job_back(store, running, expire):
    job = running()
    store.report(job.id, 1, 0.5, "half")
    assert store.reap().expired == ()
    expire(job)
    reaped = store.reap()
    assert (reaped.expired, reaped.failed, reaped.cancelled) == ((Hint(job.id, "search"),), (), ())
    again = store.get(job.id)
    assert (again.status, again.worker, again.lease_until, again.fraction) == ("queued", None, None, 0.5)
    assert again.message == "the worker worker stopped renewing its lease during attempt 1"
    assert store.events(job.id)[-1].data == {
        "status": "queued",
        "attempt": 1,
        "reason": "the lease ran out",
        "worker": "worker",
    }
    with pytest.raises(Superseded):
        store.heartbeat(job.id, 1, 60)
    assert store.reap() == type(reaped)((), (), ())
    assert store.metrics().counters == {"attempts.lost": 1, "fenced_writes": 1, "lease_expiries": 1}


def test_a_job_that_loses_its_last_worker_fails(store, running, expire):
    job = running(max_attempts=2)
    children = store.fan_out(job.id, 1, [Child("0", "shard", {}, "search")])
    expire(job)
    store.reap()
    assert store.get(children[0].id).status == "queued"
    expire(store.claim(job.id, "worker-2", 60))
    assert store.reap().failed == (job.id,)
    failed = store.get(job.id)
    assert (failed.status, failed.failure.kind) == ("failed", "worker_lost")
    assert failed.failure.remedy
    assert failed.finished_at is not None
    assert store.events(job.id)[-1].terminal
    assert store.get(children[0].id).status == "cancelled"


def test_released_attempts_do_not_bring_the_end_nearer(store, running, expire):
    job = running(max_attempts=1)
    store.release(job.id, 1)
    store.claim(job.id, "w", 60)
    store.release(job.id, 2)
    expire(store.claim(job.id, "w", 60))
    assert store.reap().failed == (job.id,)


def test_a_dead_workers_job_can_be_cancelled(store, running, expire):
    job = running()
    store.request_cancel(job.id)
    expire(job)
    assert store.reap().cancelled == (job.id,)
    assert store.get(job.id).status == "cancelled"
    assert store.events(job.id)[-1].terminal


def test_the_longest_overdue_come_first(store, running, expire):
    first, second = running(), running()
    for job in (second, first, first):
        expire(job)
    assert store.reap(limit=1).expired == (Hint(first.id, "search"),)
    assert store.reap(limit=5).expired == (Hint(second.id, "search"),)


def test_a_lease_of_nothing_is_over_at_once(store, queued):
    job = queued()
    store.claim(job.id, "w", 0)
    store.ping()
    assert store.reap().expired == (Hint(job.id, "search"),)


def test_a_job_whose_lease_was_renewed_meanwhile_is_left_alone(store, running, expire):
    job = running()
    expire(job)
    store.heartbeat(job.id, 1, 60)
    assert store._reap_one(job.id) is None
    assert store.get(job.id).status == "running"


def test_jobs_whose_message_may_be_lost_are_published_once_per_period(store, queued, running, expire):
    first, second, fresh, taken = queued(), queued(queue="train"), queued(), running()
    expire(second)
    expire(first)
    expire(first)
    expire(taken)
    assert store.publishable(60) == [Hint(first.id, "search"), Hint(second.id, "train")]
    assert store.publishable(60) == []
    expire(first)
    expire(second)
    assert len(store.publishable(60, limit=1)) == 1
    assert {hint.id for hint in store.publishable(0)} == {first.id, second.id, fresh.id}


def test_a_job_that_is_queued_again_counts_as_published_now(store, running, expire):
    job = running()
    expire(job)
    store.reap()
    assert store.publishable(60) == []
    assert [hint.id for hint in store.publishable(0)] == [job.id]


def test_metrics_count_what_is_active(store, queued, running, expire):
    old, training = queued(), queued(queue="train")
    queued()
    running()
    store.request_cancel(running().id)
    store.succeed(running().id, 1, {})
    expire(old)
    metrics = store.metrics()
    assert metrics.depth == {
        ("search", "queued"): 2,
        ("search", "running"): 1,
        ("search", "cancelling"): 1,
        ("train", "queued"): 1,
    }
    assert 3600 <= metrics.oldest_queued_seconds["search"] < 3700
    assert 0 <= metrics.oldest_queued_seconds["train"] < 100
    store.claim(training.id, "w", 60)
    store.fail(training.id, 1, Failure("timeout", "slow"), retry=False)
    assert store.metrics().counters == {"attempts.failed.timeout": 1, "attempts.succeeded": 1}
    assert "train" not in store.metrics().oldest_queued_seconds
