"""Real workers on both set-ups, ended in every way with jobs in flight; then nothing is claimed and nothing is left."""

import os
import signal
import subprocess
import sys
import time

import pytest
from celery import Celery

embedded_alone = pytest.mark.parametrize("set_up", ["embedded"], indirect=True)
full_alone = pytest.mark.parametrize("set_up", ["full"], indirect=True)


def start_latency(job):
    return (job.started_at - job.created_at).total_seconds()


def test_jobs_run_fan_out_fail_and_are_cancelled(set_up):
    """One worker, one slot of each queue."""
    desk = set_up.desk
    worker = set_up.start()
    assert desk.ended(desk.post("answer", value=9)).result["answer"] == 9
    # Loaded machines run these tests; the promise of half a second is for a quiet one.
    assert start_latency(desk.ended(desk.post("answer"))) < 2.0
    children = [{"key": str(i), "kind": "shard", "spec": {"do": "answer", "value": i}} for i in range(3)]
    family = desk.ended(desk.post("parent", children=children))
    assert [outcome["result"]["answer"] for outcome in family.result["outcomes"]] == [0, 1, 2]
    assert "SIGSEGV" in desk.ended(desk.post("crash")).failure.message
    training = desk.running(desk.post("stubborn", "training"), "deaf")
    assert desk.ended(desk.post("answer")).status == "succeeded"
    desk.store.request_cancel(training.id)
    assert desk.ended(training).status == "cancelled"
    assert worker.terminate() == 0


@full_alone
def test_a_message_that_was_lost_and_one_that_comes_again(set_up):
    desk = set_up.desk
    set_up.start()
    lost = desk.post("answer", announce=False)
    assert desk.ended(lost).attempt == 1
    again = desk.post("sleep", seconds=0.5)
    for _ in range(3):
        desk.send(again.id, "search")
    assert desk.ended(again).status == "succeeded"
    time.sleep(0.3)
    assert desk.get(again).attempt == 1


def test_a_worker_that_is_told_to_end_gives_its_job_back(set_up):
    end_with_a_job(set_up, signal.SIGTERM)


@embedded_alone
def test_interrupted_from_the_keyboard_it_ends_alike(set_up):
    end_with_a_job(set_up, signal.SIGINT)


def end_with_a_job(set_up, number):
    desk = set_up.desk
    worker = set_up.start()
    job = desk.running(desk.post("count", to=60, pause=0.05), "at 3")
    worker.popen.send_signal(number)
    assert worker.popen.wait(timeout=30) == 0
    waiting = desk.get(job)
    assert (waiting.status, waiting.released) == ("queued", 1)
    assert not worker.computing()
    set_up.start()
    ended = desk.ended(job)
    assert (ended.status, ended.result["attempt"]) == ("succeeded", 2)
    assert ended.result["begun_at"] >= 3


def test_a_worker_that_is_killed_loses_no_job(set_up):
    """Another worker finds the job by its lease, and goes on from its checkpoint."""
    desk = set_up.desk
    first = set_up.start()
    job = desk.running(desk.post("count", to=60, pause=0.05), "at 3")
    computing = first.computing()
    assert computing
    first.kill()
    set_up.start()
    ended = desk.ended(job)
    assert (ended.status, ended.result["attempt"]) == ("succeeded", 2)
    assert ended.result["begun_at"] >= 3
    assert not [pid for pid in computing if os.path.exists(f"/proc/{pid}")]
    assert desk.store.metrics().counters["lease_expiries"] == 1


@full_alone
def test_a_dead_workers_job_can_be_cancelled(set_up):
    desk = set_up.desk
    worker = set_up.start()
    job = desk.running(desk.post("deaf"), "deaf")
    worker.kill()
    assert desk.store.request_cancel(job.id).status == "cancelling"
    set_up.start()
    assert desk.ended(job).status == "cancelled"


@embedded_alone
def test_a_worker_that_is_stopped_and_wakes_up_writes_nothing(set_up):
    """Suspended for longer than its lease, it finds the job another's; its process has ended meanwhile."""
    desk = set_up.desk
    first = set_up.start()
    job = desk.running(desk.post("count", to=100, pause=0.05), "at 2")
    first.popen.send_signal(signal.SIGSTOP)
    try:
        set_up.start()
        resumed = _attempt_of(desk, job, 2)
    finally:
        first.popen.send_signal(signal.SIGCONT)
    ended = desk.ended(resumed)
    assert (ended.status, ended.result["attempt"]) == ("succeeded", 2)


@embedded_alone
def test_the_embedded_worker_ends_with_its_parent(set_up):
    """Whoever started it was killed, and could tell nobody."""
    desk = set_up.desk
    program = (
        "import subprocess, sys, time\n"
        "print(subprocess.Popen([sys.executable, '-m', 'collegium.worker.embedded']).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = set_up.start(command=[sys.executable, "-c", program])
    job = desk.running(desk.post("sleep"), "asleep")
    parent.kill()
    while desk.get(job).status != "queued":
        time.sleep(0.05)
    assert desk.get(job).released == 1
    desk.store.request_cancel(job.id)


@full_alone
def test_workers_answer_a_ping_and_beat_reaps(set_up):
    desk = set_up.desk
    job = desk.post("answer", announce=False, max_attempts=2)
    desk.store.claim(job.id, "dead", 0.0)
    set_up.start(reap_s=600)
    pinger: Celery = desk.send.__closure__[0].cell_contents
    assert pinger.control.ping(timeout=3.0)
    assert desk.get(job).attempt == 1
    beat = [sys.executable, "-m", "celery", "-A", "collegium.worker", "beat", "-l", "INFO"]
    environment = set_up.environment | {"COLLEGIUM_REAP_S": "0.5"}
    process = subprocess.Popen(beat, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert desk.ended(job).attempt == 2
    finally:
        process.terminate()
        process.wait()


@embedded_alone
def test_a_broker_that_is_down_delays_and_loses_nothing(set_up):
    """The poll finds what no message could announce."""
    set_up.start(broker_url="redis://127.0.0.1:1/0", wait=False)
    assert set_up.desk.ended(set_up.desk.post("answer", announce=False)).status == "succeeded"


def _attempt_of(desk, job, attempt):
    deadline = time.monotonic() + 30
    while desk.get(job).attempt < attempt and time.monotonic() < deadline:
        time.sleep(0.05)
    return desk.get(job)
