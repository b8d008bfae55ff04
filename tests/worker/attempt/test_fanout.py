"""A parent and its children: with a single slot, with several workers, cancelled, killed and resumed."""

import os
import signal

import pytest

on_both = pytest.mark.parametrize("client", ["sqlite", "postgresql"], indirect=True)


def children(count, do="answer", kind="shard", **spec):
    return [{"key": f"child-{i}", "kind": kind, "spec": {"do": do, "value": i, **spec}} for i in range(count)]


@on_both
def test_one_slot_suffices_for_a_parent_and_its_children(client, make_runner):
    make_runner(slots=1)
    parent = client.ended(client.post("parent", children=children(4)))
    assert parent.status == "succeeded", parent.failure
    outcomes = parent.result["outcomes"]
    assert [outcome["key"] for outcome in outcomes] == [f"child-{i}" for i in range(4)]
    assert [outcome["result"]["answer"] for outcome in outcomes] == [0, 1, 2, 3]
    assert all(outcome["result"]["pid"] != parent.result["pid"] for outcome in outcomes)
    assert parent.result["progress"][-1][1] == 4
    assert all(child.worker is None and child.parent_id == parent.id for child in client.store.children(parent.id))


def test_children_in_one_slot_share_a_process(client, make_runner):
    make_runner(slots=1)
    parent = client.post("parent", "study", children=children(4, kind="training"))
    outcomes = client.ended(parent).result["outcomes"]
    assert len({outcome["result"]["pid"] for outcome in outcomes}) == 1
    assert {child.queue for child in client.store.children(parent.id)} == {"train"}


def test_a_process_whose_job_failed_serves_no_other(client, make_runner):
    make_runner(slots=1)
    family = [{"key": str(i), "kind": "shard", "spec": {"do": "fail" if i == 1 else "answer"}} for i in range(3)]
    outcomes = client.ended(client.post("parent", children=family)).result["outcomes"]
    assert [outcome["status"] for outcome in outcomes] == ["succeeded", "failed", "succeeded"]
    failed = int(outcomes[1]["failure"]["message"].split()[-1])
    taken = [client.store.events(outcome["id"])[1].at for outcome in outcomes]
    for outcome, when in zip(outcomes, taken, strict=True):
        if when > taken[1]:
            assert outcome["result"]["pid"] != failed


def test_a_process_serves_so_many_children_and_no_more(client, make_runner, monkeypatch):
    monkeypatch.setattr("collegium.worker.attempt.attempt.MOST_JOBS", 2)
    make_runner(slots=1)
    outcomes = client.ended(client.post("parent", children=children(4))).result["outcomes"]
    assert len({outcome["result"]["pid"] for outcome in outcomes}) == 2


def test_jobs_of_their_own_never_share_a_process(client, make_runner):
    make_runner(slots=1)
    family = client.ended(client.post("parent", children=children(2)))
    used = family.result["outcomes"][0]["result"]["pid"]
    assert used not in {client.ended(client.post("answer")).result["pid"] for _ in range(3)}


def test_a_used_process_ends_when_no_child_comes(client, make_runner, monkeypatch):
    monkeypatch.setattr("collegium.worker.process.spares.IDLE_S", 0.2)
    runner = make_runner(slots=1)
    client.ended(client.post("parent", children=children(2)))
    client.wait_until(lambda: runner._spares.pids == [], "no process is left", 10)


@on_both
def test_several_workers_take_children(client, make_runner):
    for name in ("one", "two", "three"):
        make_runner(name=name)
    parent = client.ended(client.post("parent", children=children(9, do="sleep", seconds=0.3)))
    assert parent.status == "succeeded"
    taken = {
        e.data["worker"]
        for c in client.store.children(parent.id)
        for e in client.store.events(c.id)
        if "worker" in e.data
    }
    assert len(taken) >= 2


def test_a_failed_child_does_not_lose_the_others(client, runner):
    mixed = [*children(2), {"key": "bad", "kind": "shard", "spec": {"do": "crash"}}]
    parent = client.ended(client.post("parent", children=mixed))
    assert parent.status == "succeeded"
    assert [outcome["status"] for outcome in parent.result["outcomes"]] == ["succeeded", "succeeded", "failed"]
    assert "SIGSEGV" in parent.result["outcomes"][2]["failure"]["message"]


@on_both
def test_cancelling_a_parent_cancels_its_children(client, make_runner):
    make_runner(slots=2)
    parent = client.running(client.post("parent", children=children(3, do="sleep")))
    client.children_running(parent)
    client.store.request_cancel(parent.id)
    assert client.ended(parent).status == "cancelled"
    assert {client.ended(child).status for child in client.store.children(parent.id)} == {"cancelled"}


def test_a_parent_that_fails_takes_its_running_children_along(client, make_runner):
    runner = make_runner(slots=2)
    parent = client.running(client.post("parent", children=children(2, do="sleep"), max_attempts=1))
    client.children_running(parent, 2)
    kill_process_of(runner, parent)
    assert client.ended(parent).failure.kind == "worker_lost"
    assert {client.ended(child).status for child in client.store.children(parent.id)} == {"cancelled"}


def test_a_second_attempt_finds_the_children_of_the_first(client, runner):
    several = children(2) + children(1, do="count", to=40, pause=0.05)
    several[2]["key"] = "slow"
    parent = client.post("parent", children=several)
    client.running(parent)
    client.wait_until(lambda: client.children_running(parent)[-1].child_key == "slow", "the slow child runs")
    kill_process_of(runner, parent)
    ended = client.ended(parent)
    assert ended.status == "succeeded", ended.failure
    assert ended.result["attempt"] == 2
    family = client.store.children(parent.id)
    assert [child.attempt for child in family] == [1, 1, 1]
    assert [o["id"] for o in ended.result["outcomes"]] == [
        next(c.id for c in family if c.child_key == key) for key in ("child-0", "child-1", "slow")
    ]


@pytest.mark.slow
def test_shutdown_gives_back_parent_and_child(client, make_runner):
    first = make_runner()
    parent = client.running(client.post("parent", children=children(2, do="count", to=30, pause=0.05)))
    client.children_running(parent)
    first.close()
    assert client.get(parent).status == "queued"
    assert {c.status for c in client.store.children(parent.id)} == {"queued"}
    make_runner(name="next")
    ended = client.ended(parent)
    assert ended.status == "succeeded", ended.failure


def test_children_without_sense_fail_the_parent(client, runner):
    twice = children(1) + children(1)
    job = client.ended(client.post("parent", children=twice))
    assert (job.status, job.failure.kind) == ("failed", "internal")
    assert "two children share a key" in job.failure.message


def test_no_children_are_soon_done(client, runner):
    assert client.ended(client.post("parent", children=[])).result["outcomes"] == []


def kill_process_of(runner, job):
    attempt = next(attempt for attempt in runner._attempts if attempt._job.id == job.id)
    os.killpg(attempt._process.pid, signal.SIGKILL)
