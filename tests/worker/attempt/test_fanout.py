"""A parent and its children: with a single slot, with several workers, cancelled, killed and resumed."""

import os
import signal
import time

import pytest

on_both = pytest.mark.parametrize("desk", ["sqlite", "postgresql"], indirect=True)


def children(count, do="answer", kind="shard", **spec):
    return [{"key": f"child-{i}", "kind": kind, "spec": {"do": do, "value": i, **spec}} for i in range(count)]


@on_both
def test_one_slot_suffices_for_a_parent_and_its_children(desk, make_runner):
    make_runner(slots=1)
    parent = desk.ended(desk.post("parent", children=children(4)))
    assert parent.status == "succeeded", parent.failure
    outcomes = parent.result["outcomes"]
    assert [outcome["key"] for outcome in outcomes] == [f"child-{i}" for i in range(4)]
    assert [outcome["result"]["answer"] for outcome in outcomes] == [0, 1, 2, 3]
    assert all(outcome["result"]["pid"] != parent.result["pid"] for outcome in outcomes)
    assert parent.result["progress"][-1][1] == 4
    assert all(child.worker is None and child.parent_id == parent.id for child in desk.store.children(parent.id))


def test_children_in_one_slot_share_a_process(desk, make_runner):
    make_runner(slots=1)
    parent = desk.post("parent", "study", children=children(4, kind="training"))
    outcomes = desk.ended(parent).result["outcomes"]
    assert len({outcome["result"]["pid"] for outcome in outcomes}) == 1
    assert {child.queue for child in desk.store.children(parent.id)} == {"train"}


def test_a_process_whose_job_failed_serves_no_other(desk, make_runner):
    make_runner(slots=1)
    family = [{"key": str(i), "kind": "shard", "spec": {"do": "fail" if i == 1 else "answer"}} for i in range(3)]
    outcomes = desk.ended(desk.post("parent", children=family)).result["outcomes"]
    assert [outcome["status"] for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    failed = int(outcomes[1]["failure"]["message"].split()[-1])
    taken = [desk.store.events(outcome["id"])[1].at for outcome in outcomes]
    for outcome, when in zip(outcomes, taken, strict=True):
        if when > taken[1]:
            assert outcome["result"]["pid"] != failed


def test_a_process_serves_so_many_children_and_no_more(desk, make_runner, monkeypatch):
    monkeypatch.setattr("collegium.worker.attempt.attempt.MOST_JOBS", 2)
    make_runner(slots=1)
    outcomes = desk.ended(desk.post("parent", children=children(4))).result["outcomes"]
    assert len({outcome["result"]["pid"] for outcome in outcomes}) == 2


def test_jobs_of_their_own_never_share_a_process(desk, make_runner):
    make_runner(slots=1)
    family = desk.ended(desk.post("parent", children=children(2)))
    used = family.result["outcomes"][0]["result"]["pid"]
    assert used not in {desk.ended(desk.post("answer")).result["pid"] for _ in range(3)}


def test_a_used_process_ends_when_no_child_comes(desk, make_runner, monkeypatch):
    monkeypatch.setattr("collegium.worker.process.spares.IDLE_S", 0.2)
    runner = make_runner(slots=1)
    desk.ended(desk.post("parent", children=children(2)))
    deadline = time.monotonic() + 10
    while runner._spares.pids and time.monotonic() < deadline:
        time.sleep(0.05)
    assert runner._spares.pids == []


@on_both
def test_several_workers_take_children(desk, make_runner):
    for name in ("one", "two", "three"):
        make_runner(name=name)
    parent = desk.ended(desk.post("parent", children=children(9, do="sleep", seconds=0.3)))
    assert parent.status == "succeeded"
    taken = {
        e.data["worker"] for c in desk.store.children(parent.id) for e in desk.store.events(c.id) if "worker" in e.data
    }
    assert len(taken) >= 2


def test_a_failed_child_does_not_lose_the_others(desk, runner):
    mixed = [*children(2), {"key": "bad", "kind": "shard", "spec": {"do": "crash"}}]
    parent = desk.ended(desk.post("parent", children=mixed))
    assert parent.status == "succeeded"
    assert [outcome["status"] for outcome in parent.result["outcomes"]] == ["succeeded", "succeeded", "failed"]
    assert "SIGSEGV" in parent.result["outcomes"][2]["failure"]["message"]


@on_both
def test_cancelling_a_parent_cancels_its_children(desk, make_runner):
    make_runner(slots=2)
    parent = desk.running(desk.post("parent", children=children(3, do="sleep")))
    desk.children_running(parent)
    desk.store.request_cancel(parent.id)
    assert desk.ended(parent).status == "cancelled"
    assert {desk.ended(child).status for child in desk.store.children(parent.id)} == {"cancelled"}


def test_a_parent_that_fails_takes_its_running_children_along(desk, make_runner):
    runner = make_runner(slots=2)
    parent = desk.running(desk.post("parent", children=children(2, do="sleep"), max_attempts=1))
    desk.children_running(parent, 2)
    kill_process_of(runner, parent)
    assert desk.ended(parent).failure.kind == "worker_lost"
    assert {desk.ended(child).status for child in desk.store.children(parent.id)} == {"cancelled"}


def test_a_second_attempt_finds_the_children_of_the_first(desk, runner):
    several = children(2) + children(1, do="count", to=40, pause=0.05)
    several[2]["key"] = "slow"
    parent = desk.post("parent", children=several)
    desk.running(parent)
    while desk.children_running(parent)[-1].child_key != "slow":
        time.sleep(0.02)
    kill_process_of(runner, parent)
    ended = desk.ended(parent)
    assert ended.status == "succeeded", ended.failure
    assert ended.result["attempt"] == 2
    family = desk.store.children(parent.id)
    assert [child.attempt for child in family] == [1, 1, 1]
    assert [o["id"] for o in ended.result["outcomes"]] == [
        next(c.id for c in family if c.child_key == key) for key in ("child-0", "child-1", "slow")
    ]


def test_shutdown_gives_back_parent_and_child(desk, make_runner):
    first = make_runner()
    parent = desk.running(desk.post("parent", children=children(2, do="count", to=30, pause=0.05)))
    desk.children_running(parent)
    first.close()
    assert desk.get(parent).status == "queued"
    assert {c.status for c in desk.store.children(parent.id)} == {"queued"}
    make_runner(name="next")
    ended = desk.ended(parent)
    assert ended.status == "succeeded", ended.failure


def test_children_without_sense_fail_the_parent(desk, runner):
    twice = children(1) + children(1)
    job = desk.ended(desk.post("parent", children=twice))
    assert (job.status, job.failure.kind) == ("failed", "internal")
    assert "two children share a key" in job.failure.message


def test_no_children_are_soon_done(desk, runner):
    assert desk.ended(desk.post("parent", children=[])).result["outcomes"] == []


def kill_process_of(runner, job):
    attempt = next(attempt for attempt in runner._attempts if attempt._job.id == job.id)
    os.killpg(attempt._process.pid, signal.SIGKILL)
