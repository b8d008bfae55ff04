"""Real workers on both set-ups, ended in every way with jobs in flight; then nothing is claimed and nothing is left."""

import os
import signal
import sqlite3
import sys
from contextlib import closing

import pytest
import redis

from collegium.jobs.broker import Publisher

pytestmark = pytest.mark.slow
embedded_alone = pytest.mark.parametrize("setup", ["embedded"], indirect=True)
full_alone = pytest.mark.parametrize("setup", ["full"], indirect=True)


def start_latency(job):
    return (job.started_at - job.created_at).total_seconds()


def test_jobs_run_fan_out_fail_and_are_cancelled(setup):
    """One worker, one slot of each queue."""
    client = setup.client
    worker = setup.start()
    assert client.ended(client.post("answer", value=9)).result["answer"] == 9
    # Loaded machines run these tests; the promise of half a second is for a quiet one.
    assert start_latency(client.ended(client.post("answer"))) < 2.0
    children = [{"key": str(i), "kind": "shard", "spec": {"do": "answer", "value": i}} for i in range(3)]
    family = client.ended(client.post("parent", children=children))
    assert [outcome["result"]["answer"] for outcome in family.result["outcomes"]] == [0, 1, 2]
    assert "SIGSEGV" in client.ended(client.post("crash")).failure.message
    training = client.running(client.post("stubborn", "training"), "unresponsive")
    assert client.ended(client.post("answer")).status == "succeeded"
    client.store.request_cancel(training.id)
    assert client.ended(training).status == "cancelled"
    assert worker.terminate() == 0


@full_alone
def test_a_message_that_was_lost_and_one_that_comes_again(setup, wait_until):
    client = setup.client
    setup.start()
    lost = client.post("answer", publish=False)
    assert client.ended(lost).attempt == 1
    again = client.post("sleep", seconds=0.5)
    for _ in range(3):
        client.send(again.id, "search")
    assert client.ended(again).status == "succeeded"
    with redis.Redis.from_url(setup.environment["COLLEGIUM_BROKER_URL"]) as broker:
        wait_until(lambda: broker.llen("search") == 0, "every message is read")
    # The worker handles messages in their order.
    assert client.ended(client.post("answer")).status == "succeeded"
    assert client.get(again).attempt == 1


def test_a_worker_that_is_told_to_end_gives_its_job_back(setup):
    end_with_a_job(setup, signal.SIGTERM)


@embedded_alone
def test_interrupted_from_the_keyboard_it_ends_alike(setup):
    end_with_a_job(setup, signal.SIGINT)


def end_with_a_job(setup, number):
    client = setup.client
    worker = setup.start()
    job = client.running(client.post("count", to=60, pause=0.05), "at 3")
    worker.popen.send_signal(number)
    assert worker.popen.wait(timeout=30) == 0
    waiting = client.get(job)
    assert (waiting.status, waiting.released) == ("queued", 1)
    assert not worker.computing()
    setup.start()
    ended = client.ended(job)
    assert (ended.status, ended.result["attempt"]) == ("succeeded", 2)
    assert ended.result["begun_at"] >= 3


def test_a_worker_that_is_killed_loses_no_job(setup):
    """Another worker finds the job by its lease, and goes on from its checkpoint."""
    client = setup.client
    first = setup.start()
    job = client.running(client.post("count", to=60, pause=0.05), "at 3")
    computing = first.computing()
    assert computing
    first.kill()
    setup.start()
    ended = client.ended(job)
    assert (ended.status, ended.result["attempt"]) == ("succeeded", 2)
    assert ended.result["begun_at"] >= 3
    assert not [pid for pid in computing if os.path.exists(f"/proc/{pid}")]
    assert client.store.metrics().counters["lease_expiries"] == 1


@full_alone
def test_a_dead_workers_job_can_be_cancelled(setup):
    client = setup.client
    worker = setup.start()
    job = client.running(client.post("unresponsive"), "unresponsive")
    worker.kill()
    assert client.store.request_cancel(job.id).status == "cancelling"
    setup.start()
    assert client.ended(job).status == "cancelled"


@embedded_alone
def test_a_worker_that_was_suspended_for_longer_than_its_lease_writes_nothing(setup, tmp_path, wait_until):
    """Another worker has taken the job, and the process of the first has ended, when the first wakes up."""
    client, gate = setup.client, tmp_path / "gate"
    first = setup.start()
    job = client.running(client.post("wait_for", path=str(gate)), "waiting")
    computing = int(job.message.split()[-1])
    assert computing in first.computing()
    try:
        wait_until(lambda: suspended_between_writes(first, client), "the worker is suspended outside a transaction")
        setup.start()
        wait_until(lambda: client.get(job).attempt > 1 and client.running(job), "another attempt runs", 60)
        wait_until(lambda: computing not in first.computing(), "the process of the first attempt has ended")
    finally:
        first.popen.send_signal(signal.SIGCONT)
    wait_until(lambda: b"attempt 1: lost" in first.log.read_bytes(), "the first worker finds its lease lost")
    gate.touch()
    ended = client.ended(job)
    assert (ended.status, ended.result["attempt"]) == ("succeeded", ended.attempt)
    attempts = [event.data["attempt"] for event in client.store.events(job.id, types=["state"])]
    assert attempts == sorted(attempts)
    assert attempts[-1] > 1


@embedded_alone
def test_the_embedded_worker_ends_with_its_parent(setup, wait_until):
    """Its parent was killed, and could not end it."""
    client = setup.client
    program = (
        "import subprocess, sys, time\n"
        "print(subprocess.Popen([sys.executable, '-m', 'collegium.worker.embedded']).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = setup.start(command=[sys.executable, "-c", program])
    job = client.running(client.post("sleep"), "asleep")
    parent.kill()
    wait_until(lambda: client.get(job).status == "queued", "the job is given back")
    assert client.get(job).released == 1
    client.store.request_cancel(job.id)


@full_alone
def test_workers_reply_to_a_ping(setup, wait_until):
    publisher = Publisher(setup.environment["COLLEGIUM_BROKER_URL"])
    try:
        assert publisher.workers(timeout_s=1.0) == []
        setup.start()
        name = wait_until(lambda: publisher.workers(timeout_s=1.0), "a worker replies")
        assert [found.split("@")[0] for found in name] == [f"test-{os.getpid()}"]
    finally:
        publisher.close()


@embedded_alone
def test_a_broker_that_is_down_delays_and_loses_nothing(setup):
    """The poll finds what no message could publish."""
    setup.start(broker_url="redis://127.0.0.1:1/0", wait=False)
    assert setup.client.ended(setup.client.post("answer", publish=False)).status == "succeeded"


def suspended_between_writes(worker, client):
    """Suspend a worker, unless it holds SQLite's write lock, on which every other process would wait."""
    worker.popen.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, worker.popen.pid, os.WSTOPPED)
    with closing(sqlite3.connect(client.store.engine.url.database, timeout=0.5, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        except sqlite3.OperationalError:
            worker.popen.send_signal(signal.SIGCONT)
            return False
    return True
