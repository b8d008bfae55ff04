"""Jobs reach a worker by message, by poll, twice, or not at all; a full worker leaves them to others."""

import threading
import time

from collegium.worker import runner as reaper


def test_a_message_runs_the_job_before_any_poll(desk, make_runner):
    runner = make_runner(poll_s=60.0)
    time.sleep(0.2)
    job = desk.post("answer")
    runner.run(job.id)
    assert desk.get(job).status == "succeeded"


def test_a_poll_finds_a_job_that_no_message_announced(desk, make_runner):
    make_runner()
    assert desk.ended(desk.post("answer", announce=False)).status == "succeeded"


def test_a_message_that_comes_twice_runs_the_job_once(desk, make_runner):
    runner = make_runner(slots=3, poll_s=60.0)
    job = desk.post("sleep", seconds=0.3)
    threads = [threading.Thread(target=runner.run, args=(job.id,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runner.run(job.id)
    ended = desk.get(job)
    assert (ended.status, ended.attempt) == ("succeeded", 1)


def test_a_message_for_a_job_that_is_not_there_does_no_harm(desk, make_runner):
    runner = make_runner()
    runner.run("nobody")
    assert desk.ended(desk.post("answer")).status == "succeeded"


def test_a_full_worker_leaves_the_job_to_another(desk, make_runner):
    full = make_runner(name="full", poll_s=60.0)
    busy = desk.post("sleep", seconds=30)
    holder = threading.Thread(target=full.run, args=(busy.id,))
    holder.start()
    desk.running(busy)
    other = desk.post("answer")
    full.run(other.id)
    assert desk.get(other).status == "queued"
    make_runner(name="idle")
    assert desk.ended(other).status == "succeeded"
    desk.store.request_cancel(busy.id)
    holder.join()


def test_the_next_job_follows_at_once(desk, make_runner):
    """A slot that becomes free looks for work without waiting for the poll."""
    runner = make_runner(poll_s=60.0)
    time.sleep(0.2)
    jobs = [desk.post("answer") for _ in range(3)]
    runner.run(jobs[0].id)
    assert {desk.ended(job, 20).status for job in jobs} == {"succeeded"}


def test_a_long_training_does_not_hold_up_a_search(desk, make_runner):
    make_runner(slots=1)
    training = desk.running(desk.post("sleep", "training"))
    assert desk.ended(desk.post("answer")).status == "succeeded"
    desk.store.request_cancel(training.id)
    desk.ended(training)


def test_a_machine_that_starts_no_process_fails_the_job_and_says_why(desk, make_runner, monkeypatch):
    def refuse(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("collegium.worker.process.spares.ComputeProcess", refuse)
    make_runner()
    job = desk.ended(desk.post("answer"))
    assert (job.status, job.failure.kind, job.attempt) == ("failed", "internal", job.max_attempts)
    assert "Resource temporarily unavailable" in job.failure.message


def test_lost_jobs_and_lost_messages_are_announced_anew(desk, announcer):
    unannounced, lost, spent = desk.post("answer"), desk.post("answer"), desk.post("answer", max_attempts=1)
    for job in (lost, spent):
        desk.store.claim(job.id, "dead", 0.0)
    time.sleep(0.6)
    reaped = reaper.reap(desk.store, announcer, silent_s=0.5)
    assert [hint.id for hint in reaped.expired] == [lost.id]
    assert reaped.failed == (spent.id,)
    assert announcer.sent == [(lost.id, "search"), (unannounced.id, "search")]
    assert desk.get(spent).failure.kind == "worker_lost"


def test_a_worker_that_starts_removes_what_a_killed_one_left(desk, make_runner, settings):
    ended, waiting = desk.post("answer"), desk.post("answer", "training")
    desk.store.request_cancel(ended.id)
    for job in (ended, waiting):
        (settings.home / "work" / job.id / "1").mkdir(parents=True)
        (settings.home / "checkpoints" / job.id).mkdir(parents=True)
    (settings.home / "checkpoints" / "of-another-database").mkdir()
    runner = make_runner(poll_s=60.0)
    runner.close()
    left = {path.name for path in settings.home.glob("checkpoints/*")}
    assert left <= {waiting.id, "of-another-database"}
    assert "of-another-database" in left
    assert not list(settings.home.glob("work/*/1"))
