import pytest

from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import Child, Failure

FAILURE = Failure("user_error", "no")


@pytest.fixture
def family(store, running):
    """A running study with three children, the first of which runs and has two shards, one of them running."""
    study = running()
    children = store.fan_out(study.id, 1, [Child(str(n), "training", {}, "train") for n in range(3)])
    store.claim(children[0].id, "w", 60)
    shards = store.fan_out(children[0].id, 1, [Child(str(n), "shard", {}, "search") for n in range(2)])
    store.claim(shards[0].id, "w", 60)
    return [study, *children, *shards]


def statuses(store, family):
    return [store.get(job.id).status for job in family]


def test_cancelling_a_parent_cancels_all_below(store, family):
    assert store.request_cancel(family[0].id).status == "cancelling"
    assert statuses(store, family) == [
        "cancelling",
        "cancelling",
        "cancelled",
        "cancelled",
        "cancelling",
        "cancelled",
    ]
    assert all(store.get(job.id).cancel_requested for job in family)
    assert store.heartbeat(family[4].id, 1, 60).cancel_requested
    assert store.events(family[2].id)[-1].data == {
        "status": "cancelled",
        "attempt": 0,
        "reason": "cancelled by request",
    }
    assert store.child_counts(family[0].id) == {"cancelling": 1, "cancelled": 2}


def test_cancelling_twice_changes_nothing_more(store, family):
    store.request_cancel(family[0].id)
    before = [store.get(job.id) for job in family]
    assert store.request_cancel(family[0].id) == before[0]
    assert [store.get(job.id) for job in family] == before


def test_cancelling_a_child_leaves_its_parent_and_siblings(store, family):
    store.request_cancel(family[1].id)
    assert statuses(store, family) == ["running", "cancelling", "queued", "queued", "cancelling", "cancelled"]


def test_cancelling_reaches_below_a_child_that_has_ended(store, family):
    store.fail(family[1].id, 1, FAILURE, retry=False)
    assert statuses(store, family)[4] == "running"
    store.request_cancel(family[0].id)
    assert statuses(store, family)[4] == "cancelling"


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_a_parent_that_ends_drops_the_children_that_wait(store, family, end):
    study = family[0]
    if end == "succeed":
        store.succeed(study.id, 1, {})
    else:
        store.fail(study.id, 1, FAILURE, retry=False)
    assert statuses(store, family)[1:] == ["running", "cancelled", "cancelled", "running", "queued"]
    assert store.events(family[2].id)[-1].data["reason"] == "the parent has ended"
    # What ran is left to finish.
    assert store.succeed(family[1].id, 1, {}).status == "succeeded"
    assert statuses(store, family)[4:] == ["running", "cancelled"]


def test_a_child_that_is_dropped_takes_along_what_it_had_started(store, family):
    store.release(family[1].id, 1)
    store.succeed(family[0].id, 1, {})
    assert statuses(store, family)[1:] == ["cancelled", "cancelled", "cancelled", "cancelling", "cancelled"]


def test_a_parent_that_is_tried_again_keeps_its_children(store, family):
    store.fail(family[0].id, 1, FAILURE, retry=True)
    assert statuses(store, family) == ["queued", "running", "queued", "queued", "running", "queued"]


def test_a_queued_job_is_cancelled_at_once(store, queued):
    job = store.request_cancel(queued().id)
    assert (job.status, job.cancel_requested, job.attempt) == ("cancelled", True, 0)
    assert job.finished_at is not None
    assert job.started_at is None
    assert store.metrics().depth == {}


def test_cancelling_an_unknown_job_raises(store):
    with pytest.raises(JobNotFound):
        store.request_cancel("nobody")


def test_children_are_counted_by_state(store, family):
    assert store.child_counts(family[0].id) == {"running": 1, "queued": 2}
    assert store.child_counts(family[5].id) == {}
    assert [job.child_key for job in store.children(family[0].id)] == ["0", "1", "2"]
