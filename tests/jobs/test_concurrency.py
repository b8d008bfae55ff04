"""What happens at the same time, in threads and in processes, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from collegium.jobs.database.engine import now
from collegium.jobs.errors import CancelNotRequested, ParentClosed, Superseded
from collegium.jobs.record import Child, Failure
from collegium.jobs.states import CLAIM, TERMINAL
from collegium.jobs.transactions.transitions import move

FAILURE = Failure("internal", "broke")


@pytest.fixture
def together():
    """Run functions at the same time, and raise what any of them raises."""

    def run(*functions):
        barrier, errors = threading.Barrier(len(functions)), []

        def guarded(function):
            barrier.wait()
            try:
                function()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    return run


def test_every_job_is_claimed_once_by_threads(store, queued, together):
    jobs = [queued() for _ in range(24)]
    won = []

    def work(name):
        while (job := store.claim_next("search", name, 60)) is not None:
            won.append((job.id, job.worker))

    together(*[lambda name=str(n): work(name) for n in range(6)])
    # A worker may find every waiting job locked by another, and leave; the holder of the lock takes the job.
    work("last")
    assert Counter(job_id for job_id, _ in won) == Counter(job.id for job in jobs)
    for job_id, worker in won:
        assert store.get(job_id).worker == worker
        assert len(store.events(job_id)) == 2


def test_one_job_is_claimed_once_by_threads(store, queued, together):
    for _ in range(5):
        job, won = queued(), []
        together(*[lambda: won.append(store.claim(job.id, "w", 60)) for _ in range(6)])  # noqa: B023
        assert len([claimed for claimed in won if claimed is not None]) == 1
        assert store.get(job.id).attempt == 1


CLAIM_ALL = """
import sys
from collegium.jobs.database.engine import open_engine
from collegium.jobs.store import JobStore

store = JobStore(open_engine(sys.argv[1]))
store.ping()
print("ready", flush=True)
for job_id in input().split():
    if store.claim(job_id, sys.argv[2], 60) is not None:
        print(job_id)
store.close()
"""


def test_every_job_is_claimed_once_by_processes(store, queued, database_url):
    jobs = [queued().id for _ in range(30)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, database_url, f"worker-{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write(" ".join(jobs) + "\n")
        worker.stdin.flush()
    won = {f"worker-{n}": worker.communicate(timeout=120)[0].split() for n, worker in enumerate(workers)}
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(sum(won.values(), [])) == sorted(jobs)  # noqa: RUF017
    for worker, ids in won.items():
        assert {store.get(job_id).worker for job_id in ids} <= {worker}


def test_one_idempotency_key_makes_one_job(store, together):
    made = []
    for n in range(5):
        make = lambda: made.append(  # noqa: E731
            store.create("search", {"n": n}, queue="search", idempotency_key=str(n))  # noqa: B023
        )
        together(*[make] * 5)
    assert len({job.id for job, _ in made}) == 5
    assert sum(created for _, created in made) == 5
    assert len(store.list().items) == 5


def test_one_child_key_makes_one_child(store, running, together):
    parent, made = running(), []
    together(
        *[lambda: made.append(store.create("shard", {}, queue="search", parent_id=parent.id, child_key="0")[0].id)] * 4,
        lambda: made.append(store.fan_out(parent.id, 1, [Child("0", "shard", {}, "search")])[0].id),
    )
    assert len(set(made)) == 1
    assert len(store.children(parent.id)) == 1


def test_of_success_cancellation_failure_and_the_reaper_one_wins(store, running, together, expire):
    def attempt(function):
        try:
            function()
        except (Superseded, CancelNotRequested):
            return

    refused = 0
    for _ in range(6):
        job = running(max_attempts=1)
        expire(job)
        together(
            lambda: attempt(lambda: store.succeed(job.id, 1, {"x": 1})),  # noqa: B023
            lambda: attempt(lambda: store.fail(job.id, 1, FAILURE, retry=False)),  # noqa: B023
            lambda: store.request_cancel(job.id),  # noqa: B023
            lambda: attempt(lambda: store.finish_cancelled(job.id, 1)),  # noqa: B023
            store.reap,
        )
        after, events = store.get(job.id), store.events(job.id)
        assert after.status in TERMINAL
        assert [event.terminal for event in events] == [False] * (len(events) - 1) + [True]
        assert events[-1].data["status"] == after.status
        assert (after.result is not None) == (after.status == "succeeded")
        refused += 1
    counters = store.metrics().counters
    assert sum(many for name, many in counters.items() if name.startswith("attempts.")) == refused


def test_a_request_to_cancel_that_meets_a_claim_is_not_lost(store, queued, together):
    job = queued()
    claiming = threading.Event()

    def claim():
        with store.database.write() as connection:
            assert move(connection, job.id, CLAIM, attempt=1, worker="w", lease_until=now() + 60_000_000)
            claiming.set()
            time.sleep(0.3)  # the other waits for the row, or for its turn

    def cancel():
        claiming.wait()
        assert store.request_cancel(job.id).status == "cancelling"

    together(claim, cancel)
    assert store.heartbeat(job.id, 1, 60).cancel_requested


def test_parents_and_children_do_not_deadlock(store, running, together):
    """Parents add children, end, are cancelled, and children end, all at once: there is no deadlock, and no child of
    a cancelled parent stays active."""
    parents = [running() for _ in range(3)]

    def grow(parent):
        try:
            for n in range(6):
                store.fan_out(parent.id, 1, [Child(f"{n}-{m}", "shard", {}, "search") for m in range(3)])
        except (ParentClosed, Superseded):
            return

    def work(name):
        for parent in parents * 2:
            child = store.claim_child(parent.id, name, 60)
            if child is not None:
                try:
                    store.report(child.id, child.attempt, 0.5, "half")
                    store.succeed(child.id, child.attempt, {})
                except Superseded:
                    continue

    together(
        *[lambda parent=parent: grow(parent) for parent in parents],
        lambda: work("a"),
        lambda: work("b"),
        lambda: [store.request_cancel(parent.id) for parent in parents],
        lambda: [store.request_cancel(parent.id) for parent in reversed(parents)],
        lambda: [store.publishable(0) and store.reap() for _ in range(5)],
    )
    for parent in parents:
        assert store.get(parent.id).status == "cancelling"
        assert all(child.status in ("succeeded", "cancelled") for child in store.children(parent.id))


def test_writers_of_one_job_take_turns(store, running, together):
    job = running()
    together(*[lambda: [store.report(job.id, 1, n / 10, str(n)) for n in range(10)] for _ in range(4)])
    events = store.events(job.id)
    assert [event.seq for event in events] == list(range(1, 43))
    assert all(second.at >= first.at for first, second in pairwise(events[:2]))
    assert store.get(job.id).revision == job.revision + 40


def test_two_that_publish_share_the_work(store, queued, expire, together):
    jobs = [queued() for _ in range(10)]
    for job in jobs:
        expire(job)
    hints = []
    together(*[lambda: hints.extend(store.publishable(60)) for _ in range(3)])
    assert Counter(hint.id for hint in hints) == Counter(job.id for job in jobs)


def test_a_writer_that_dies_in_its_transaction_leaves_nothing(store, running, database_url):
    """Killed between the change of the row and the commit: the job is still held, and can be reaped later."""
    job = running()
    script = (
        "import os, sys; from collegium.jobs.database.engine import *; "
        "from collegium.jobs.transactions.transitions import *; from collegium.jobs.states import FINISH\n"
        "with Database(open_engine(sys.argv[1])).write() as connection:\n"
        "    assert move(connection, sys.argv[2], FINISH, result='{}').status == 'succeeded'\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, database_url, job.id], timeout=60, check=False)
    assert done.returncode == -9
    assert store.get(job.id) == job
    assert len(store.events(job.id)) == 2
    assert store.succeed(job.id, 1, {"x": 1}).status == "succeeded"
