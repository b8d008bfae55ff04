"""One attempt, from its claim to its last write, with real computing processes on both databases."""

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

on_both = pytest.mark.parametrize("client", ["sqlite", "postgresql"], indirect=True)


@on_both
def test_an_answer_is_stored_with_its_progress(client, runner):
    job = client.ended(client.post("answer", value=7))
    assert job.status == "succeeded"
    assert job.result["answer"] == 7
    assert job.result["threads"] == "1"
    assert job.fraction == 1.0
    assert job.result["pid"] != os.getpid()


def test_a_warm_spare_takes_the_job_and_is_replaced(client, make_runner, settings):
    runner = make_runner(spares=1)
    (first,) = runner._spares.pids
    assert client.ended(client.post("answer")).result["pid"] == first
    (second,) = runner._spares.pids
    assert second != first
    assert client.ended(client.post("answer")).result["pid"] == second


def test_without_spares_each_job_starts_its_process(client, make_runner):
    runner = make_runner(spares=0)
    assert runner._spares.pids == []
    assert client.ended(client.post("answer")).status == "succeeded"


@pytest.mark.parametrize(
    ("do", "kind", "words"),
    [
        ("crash", "internal", "SIGSEGV"),
        ("leave", "internal", "exit status 3"),
        ("fail", "internal", "RuntimeError: something broke"),
        ("refuse", "user_error", "no data set is called 'nothing'"),
        ("allocate", "out_of_memory", "MemoryError"),
        ("garble", "internal", "not a message"),
        ("unknown_event", "internal", "an attempt writes metric and log events, not 'poem'"),
        ("smuggled_event", "internal", "an attempt writes metric and log events, not 'state'"),
        ("badly_named", "internal", "no such name"),
    ],
)
def test_failures_have_kinds_and_end_one_job_alone(client, runner, do, kind, words):
    job = client.ended(client.post(do))
    assert job.status == "failed"
    assert job.attempt == 1
    assert (job.failure.kind, words in job.failure.message) == (kind, True), job.failure
    assert job.failure.remedy
    assert client.ended(client.post("answer")).status == "succeeded"


def test_the_log_tail_is_the_end_of_what_was_printed(client, runner):
    tail = client.ended(client.post("spam")).failure.log_tail
    assert "line 19999" in tail
    assert "straight to the descriptor" in tail
    assert "RuntimeError: after much talk" in tail
    assert "line 1 " not in tail
    assert len(tail) <= 64_000


def test_the_tail_of_a_crash_survives_it(client, runner):
    assert "about to crash" in client.ended(client.post("crash")).failure.log_tail


@on_both
def test_a_killed_process_is_tried_again(client, runner):
    job = client.ended(client.post("killed", times=2))
    assert job.status == "succeeded"
    assert job.result == {"attempt": 3}


def test_attempts_are_bounded(client, runner):
    job = client.ended(client.post("killed", times=9, max_attempts=2))
    assert (job.status, job.failure.kind, job.attempt) == ("failed", "worker_lost", 2)


def test_a_kill_by_the_kernel_is_out_of_memory(client, runner, monkeypatch):
    monkeypatch.setattr("collegium.worker.failures.MemoryKills.happened", lambda self: True)
    job = client.ended(client.post("killed"))
    assert (job.status, job.failure.kind, job.attempt) == ("failed", "out_of_memory", 1)


@on_both
@pytest.mark.parametrize("do", ["sleep", "unresponsive", pytest.param("stubborn", marks=pytest.mark.slow)])
def test_cancel_asks_then_terminates_then_kills(client, make_runner, do):
    make_runner(cancel_grace_s=0.3, term_grace_s=0.3)
    job = client.running(client.post(do), "asleep" if do == "sleep" else "unresponsive")
    assert client.store.request_cancel(job.id).status == "cancelling"
    ended = client.ended(job)
    assert ended.status == "cancelled"
    assert set(client.files(ended)) == {"begun.txt"}


def test_a_queued_job_is_cancelled_without_a_worker(client):
    job = client.post("answer")
    assert client.store.request_cancel(job.id).status == "cancelled"


@pytest.mark.parametrize("do", ["sleep", pytest.param("stubborn", marks=pytest.mark.slow)])
def test_a_job_that_takes_too_long_is_stopped(client, make_runner, do):
    make_runner(search_timeout_s=2.5, cancel_grace_s=0.3, term_grace_s=0.3)
    job = client.ended(client.post(do))
    assert (job.status, job.failure.kind) == ("failed", "timeout")
    assert "2.5 seconds" in job.failure.message
    assert set(client.files(job)) == {"begun.txt"}


@on_both
def test_files_are_published_but_for_hidden_ones_and_links(client, runner):
    job = client.ended(client.post("files"))
    assert client.files(job) == {"a.txt": b"first", "inner/b.json": b"{}"}


def test_what_a_failure_leaves_is_published(client, runner):
    assert client.files(client.ended(client.post("fail"))) == {"last.txt": b"what is left\n"}


def test_nothing_of_an_attempt_stays_on_the_machine(client, runner, settings):
    for do in ("files", "fail", "count"):
        client.ended(client.post(do, to=2))
    runner.close()
    assert list(settings.home.glob("work/*/*")) == []
    assert list(settings.home.glob("checkpoints/*")) == []


@pytest.mark.parametrize("wait", [False, True])
def test_processes_that_a_job_started_end_with_it(client, runner, wait):
    job = client.running(client.post("breed", wait=wait), "bred") if wait else client.ended(client.post("breed"))
    grandchild = next(e.data["grandchild"] for e in client.store.events(job.id) if e.type == "log")
    if wait:
        client.store.request_cancel(job.id)
        client.ended(job)
    assert not Path(f"/proc/{grandchild}/cmdline").exists() or not Path(f"/proc/{grandchild}/cmdline").read_bytes()


def test_numbers_that_json_does_not_know_become_null(client, runner):
    job = client.ended(client.post("not_numbers"))
    assert job.result == {"worst": None, "list": [None, 1.5]}
    assert [e.data for e in client.store.events(job.id) if e.type == "metric"] == [{"loss": None, "step": 3}]


@on_both
def test_estimates_are_kept_between_jobs(client, runner):
    first = client.ended(client.post("estimate", key="k", value={"r": 1.5}))
    assert first.result == {"before": None, "after": {"r": 1.5}}
    assert client.ended(client.post("estimate", key="k")).result["before"] == {"r": 1.5}


@on_both
def test_events_end_with_the_state(client, runner):
    job = client.ended(client.post("sleep", seconds=0.3))
    events = client.store.events(job.id)
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert events[-1].data["status"] == "succeeded"
    assert any(e.type == "progress" and e.data["message"] == "asleep" for e in events)


def logged(client, job):
    return [event.data["number"] for event in client.store.events(job.id, types=("log",))]


@on_both
def test_entries_are_in_the_history_before_a_checkpoint_is_kept(client, make_runner, settings):
    """Else they are lost with the worker, since the next attempt goes on behind them."""
    make_runner(progress_s=60.0)  # the first are written at once, later ones a minute on
    job = client.running(client.post("record", entries=200, wait=True))
    client.wait_until((settings.home / "checkpoints" / job.id / "settled").exists, "a checkpoint is kept", 30)
    assert logged(client, job) == list(range(200))


def test_entries_outlive_an_outage_at_the_end(client, make_runner, monkeypatch):
    """The result waits for the database, and so do they."""
    runner = make_runner(progress_s=60.0)
    append, refusals = client.store.append_events, iter(range(3))

    def refuse_at_first(*arguments):
        if next(refusals, None) is not None:
            raise OperationalError("", None, OSError("no route to host"))
        return append(*arguments)

    monkeypatch.setattr(runner._resources.store, "append_events", refuse_at_first)
    job = client.ended(client.post("breed"))
    assert job.status == "succeeded", job.failure
    assert [event.data["grandchild"] for event in client.store.events(job.id, types=("log",))] == [
        job.result["grandchild"]
    ]


@on_both
@pytest.mark.parametrize("stop", ["cancel", "shutdown"])
def test_an_entry_at_which_a_job_stops_is_kept(client, make_runner, stop):
    runner = make_runner(cancel_grace_s=20.0, shutdown_grace_s=20.0)
    job = client.running(client.post("told_too_late"), "waits")
    if stop == "cancel":
        client.store.request_cancel(job.id)
        client.ended(job)
    else:
        runner.close()
    assert logged(client, job) == [0]


@on_both
def test_a_superseded_attempt_is_killed_and_writes_nothing(client, make_runner, settings):
    """Its lease ran out unnoticed, as when a machine is suspended; meanwhile another worker took the job."""
    make_runner(heartbeat_s=1.0, lease_s=3.0, reap_s=60.0)
    job = client.running(client.post("sleep"), "asleep")
    client.store.heartbeat(job.id, job.attempt, 0.0)
    expired = client.wait_until(lambda: client.store.reap().expired, "its lease has run out")
    assert [hint.id for hint in expired] == [job.id]
    second = client.store.claim(job.id, "another", 30.0)
    process_gone = lambda: not list(settings.home.glob(f"work/{job.id}/{job.attempt}"))  # noqa: E731
    client.wait_until(process_gone, "its process is gone", 10)
    now = client.get(job)
    assert (now.status, now.attempt, now.worker) == ("running", second.attempt, "another")
    assert not client.store.artifacts(job.id)
    client.store.succeed(job.id, second.attempt, {"by": "another"})


@on_both
def test_shutdown_gives_the_job_back(client, make_runner):
    runner = make_runner()
    job = client.running(client.post("count", to=50, pause=0.05), "at 3")
    runner.close()
    waiting = client.get(job)
    assert (waiting.status, waiting.released, waiting.attempts_left) == ("queued", 1, waiting.max_attempts)
    make_runner(name="next")
    ended = client.ended(job)
    assert ended.result["begun_at"] >= 3
    assert ended.result["attempt"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_computing_process_that_is_killed_is_resumed(client, runner, number):
    job = client.running(client.post("count", to=40, pause=0.03), "at 2")
    for attempt in list(runner._attempts):
        os.killpg(attempt._process.pid, number)
    ended = client.ended(job)
    assert ended.status == "succeeded", ended.failure
    assert ended.result["attempt"] == 2
    assert ended.result["begun_at"] >= 2
