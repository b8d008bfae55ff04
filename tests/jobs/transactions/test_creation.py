from datetime import UTC, datetime, timedelta

import pytest

from collegium.jobs.errors import IdempotencyConflict, JobNotFound, NotStorable, ParentClosed, Superseded
from collegium.jobs.record import Child


def test_a_new_job_is_queued_and_untouched(store):
    spec = {"baseline": {"preset": "resnet50"}, "ä": [1.5, None, True, "\u2028"]}
    job, created = store.create("search", spec, queue="search", fingerprint="f", max_attempts=2)
    assert created
    assert store.get(job.id) == job
    assert (job.kind, job.queue, job.status, job.fingerprint) == ("search", "search", "queued", "f")
    assert job.spec == spec
    assert list(job.spec) == list(spec)
    assert (job.fraction, job.message, job.result, job.failure) == (0.0, "", None, None)
    assert (job.attempt, job.released, job.max_attempts, job.attempts_left) == (0, 0, 2, 2)
    assert (job.worker, job.lease_until, job.started_at, job.finished_at) == (None, None, None, None)
    assert (job.revision, job.last_seq, job.cancel_requested, job.terminal) == (1, 1, False, False)
    assert job.created_at == job.updated_at
    assert abs(job.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert [(event.seq, event.type, event.data) for event in store.events(job.id)] == [
        (1, "state", {"status": "queued", "attempt": 0})
    ]


def test_ids_differ(queued):
    assert len({queued().id for _ in range(20)}) == 20


NONSENSE = [
    ("poem", {}, "no kind of job"),
    ("search", {"queue": "fast"}, "no queue"),
    ("search", {"max_attempts": 0}, "at least one attempt"),
    ("search", {"parent_id": "x"}, "belong together"),
    ("search", {"child_key": "x"}, "belong together"),
    ("search", {"parent_id": "x", "child_key": ""}, "characters"),
    ("search", {"parent_id": "x", "child_key": "y" * 256}, "characters"),
    ("search", {"parent_id": "x", "child_key": "y", "idempotency_key": "z"}, "not by an idempotency key"),
    ("search", {"idempotency_key": ""}, "characters"),
    ("search", {"idempotency_key": "k" * 256}, "characters"),
]


def test_arguments_that_make_no_sense_are_refused(store):
    for kind, options, says in NONSENSE:
        with pytest.raises(ValueError, match=says):
            store.create(kind, {}, **{"queue": "search", **options})
    for value in (float("nan"), float("inf"), object(), {1, 2}):
        for key in (None, "k"):
            with pytest.raises(NotStorable):
                store.create("search", {"x": value}, queue="search", idempotency_key=key)
    assert store.list().items == ()


def test_the_same_key_and_request_give_the_same_job(store):
    first, created = store.create("search", {"a": 1, "b": 2}, queue="search", idempotency_key="k")
    again, created_again = store.create("search", {"b": 2, "a": 1}, queue="search", idempotency_key="k")
    assert (created, created_again) == (True, False)
    assert again == first
    other, created = store.create("search", {"a": 1, "b": 2}, queue="search", idempotency_key="other")
    assert created
    assert other.id != first.id
    assert len(store.list().items) == 2


def test_a_repeated_request_gives_the_job_as_it_is_by_now(store):
    job, _ = store.create("search", {}, queue="search", idempotency_key="k")
    store.request_cancel(job.id)
    again, created = store.create("search", {}, queue="search", idempotency_key="k")
    assert not created
    assert again.status == "cancelled"


def test_a_key_for_another_request_is_a_conflict(store):
    job, _ = store.create("search", {"a": 1}, queue="search", idempotency_key="k")
    for kind, spec, queue in [
        ("search", {"a": 2}, "search"),
        ("training", {"a": 1}, "search"),
        ("search", {"a": 1}, "train"),
    ]:
        with pytest.raises(IdempotencyConflict) as caught:
            store.create(kind, spec, queue=queue, idempotency_key="k")
        assert (caught.value.key, caught.value.job_id) == ("k", job.id)
    assert len(store.list().items) == 1


def test_a_result_may_be_reused(store, running):
    make = lambda **options: store.create("search", {"a": 1}, queue="search", **options)  # noqa: E731
    waiting, _ = make(fingerprint="f")
    assert make(fingerprint="f", reuse_result=True)[1]
    answer = store.succeed(running(fingerprint="f").id, 1, {"n": 10})
    assert make(fingerprint="f", reuse_result=True, idempotency_key="k") == (answer, False)
    assert make(fingerprint="g", idempotency_key="k") == (answer, False)
    assert make(fingerprint="g", reuse_result=True)[1]
    assert make(reuse_result=True)[1]
    fresh, created = make(fingerprint="f")
    assert created
    assert fresh.id not in (answer.id, waiting.id)


def test_a_child_is_made_once(store, running):
    parent = running()
    make = lambda: store.create(  # noqa: E731
        "shard", {"index": 0}, queue="search", parent_id=parent.id, child_key="0"
    )
    child, created = make()
    assert created
    assert (child.parent_id, child.child_key) == (parent.id, "0")
    assert make() == (child, False)


def test_children_need_a_parent_that_is_alive(store, running, queued):
    with pytest.raises(JobNotFound):
        store.create("shard", {}, queue="search", parent_id="nobody", child_key="0")
    parent = running()
    child, _ = store.create("shard", {}, queue="search", parent_id=parent.id, child_key="0")
    store.request_cancel(parent.id)
    with pytest.raises(ParentClosed) as caught:
        store.create("shard", {}, queue="search", parent_id=parent.id, child_key="1")
    assert caught.value.status == "cancelling"
    store.finish_cancelled(parent.id, 1)
    with pytest.raises(ParentClosed, match="cancelled"):
        store.create("shard", {}, queue="search", parent_id=parent.id, child_key="1")
    # What exists is still found.
    again, created = store.create("shard", {}, queue="search", parent_id=parent.id, child_key="0")
    assert (again.id, created) == (child.id, False)
    waiting = queued()
    assert store.create("shard", {}, queue="search", parent_id=waiting.id, child_key="0")[1]


def test_fan_out_makes_what_is_missing_in_the_order_asked(store, running):
    parent = running()
    children = [Child(str(index), "shard", {"index": index}, "search") for index in range(5)]
    first = store.fan_out(parent.id, 1, children[3:])
    store.claim(first[0].id, "other", 60)
    everyone = store.fan_out(parent.id, 1, children)
    assert [job.child_key for job in everyone] == ["0", "1", "2", "3", "4"]
    assert [job.spec["index"] for job in everyone] == [0, 1, 2, 3, 4]
    assert [job.id for job in everyone[3:]] == [job.id for job in first]
    assert everyone[3].status == "running"
    assert {job.id for job in store.children(parent.id)} == {job.id for job in everyone}
    assert [event.seq for event in store.events(everyone[0].id)] == [1]
    assert store.fan_out(parent.id, 1, children) == everyone
    assert store.fan_out(parent.id, 1, []) == []


def test_fan_out_is_fenced(store, running):
    parent = running()
    child = Child("0", "shard", {}, "search")
    with pytest.raises(ValueError, match="share a key"):
        store.fan_out(parent.id, 1, [child, child])
    store.release(parent.id, 1)
    with pytest.raises(Superseded):
        store.fan_out(parent.id, 1, [child])
    store.claim(parent.id, "worker", 60)
    with pytest.raises(Superseded):
        store.fan_out(parent.id, 1, [child])
    assert store.children(parent.id) == []
    store.request_cancel(parent.id)
    with pytest.raises(ParentClosed):
        store.fan_out(parent.id, 2, [child])
    with pytest.raises(JobNotFound):
        store.fan_out("nobody", 1, [child])
    assert store.metrics().counters["fenced_writes"] == 2
