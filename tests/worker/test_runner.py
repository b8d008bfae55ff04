"""Jobs reach a worker by message, by poll, twice, or not at all; a full worker leaves them to others."""

import threading

import pytest
from sqlalchemy import update

from collegium.jobs.database.schema import jobs
from collegium.worker import runner as reaper


class PolledStore:
    """A store that records which queues were looked at."""

    def __init__(self, store):
        self._store = store
        self.polled = set()

    def next_queued(self, queue):
        found = self._store.next_queued(queue)
        self.polled.add(queue)
        return found

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def runner_between_polls(client, make_runner):
    """A runner that has looked at both queues and will not do so again for a minute."""
    store = PolledStore(client.store)
    runner = make_runner(poll_s=60.0, store=store)
    client.wait_until(lambda: store.polled == {"search", "train"}, "the first poll is over")
    return runner


def test_a_message_runs_the_job_before_any_poll(client, runner_between_polls):
    runner = runner_between_polls
    job = client.post("answer")
    runner.run(job.id)
    assert client.get(job).status == "succeeded"


def test_a_poll_finds_a_job_without_a_message(client, make_runner):
    make_runner()
    assert client.ended(client.post("answer", publish=False)).status == "succeeded"


def test_a_message_that_comes_twice_runs_the_job_once(client, make_runner):
    runner = make_runner(slots=3, poll_s=60.0)
    job = client.post("sleep", seconds=0.3)
    threads = [threading.Thread(target=runner.run, args=(job.id,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runner.run(job.id)
    ended = client.get(job)
    assert (ended.status, ended.attempt) == ("succeeded", 1)


def test_a_message_for_a_job_that_is_not_there_does_no_harm(client, make_runner):
    runner = make_runner()
    runner.run("missing")
    assert client.ended(client.post("answer")).status == "succeeded"


def test_a_full_worker_leaves_the_job_to_another(client, make_runner):
    full = make_runner(name="full", poll_s=60.0)
    busy = client.post("sleep", seconds=30)
    holder = threading.Thread(target=full.run, args=(busy.id,))
    holder.start()
    client.running(busy)
    other = client.post("answer")
    full.run(other.id)
    assert client.get(other).status == "queued"
    make_runner(name="idle")
    assert client.ended(other).status == "succeeded"
    client.store.request_cancel(busy.id)
    holder.join()


def test_the_next_job_follows_at_once(client, runner_between_polls):
    """A slot that becomes free looks for work without waiting for the poll."""
    runner = runner_between_polls
    jobs = [client.post("answer") for _ in range(3)]
    runner.run(jobs[0].id)
    assert {client.ended(job, 20).status for job in jobs} == {"succeeded"}


def test_a_long_training_does_not_hold_up_a_search(client, make_runner):
    make_runner(slots=1)
    training = client.running(client.post("sleep", "training"))
    assert client.ended(client.post("answer")).status == "succeeded"
    client.store.request_cancel(training.id)
    client.ended(training)


def test_a_machine_that_starts_no_process_fails_the_job_and_says_why(client, make_runner, monkeypatch):
    def refuse(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("collegium.worker.process.spares.ComputeProcess", refuse)
    make_runner()
    job = client.ended(client.post("answer"))
    assert (job.status, job.failure.kind, job.attempt) == ("failed", "internal", job.max_attempts)
    assert "Resource temporarily unavailable" in job.failure.message


def test_lost_jobs_and_lost_messages_are_published_again(client, publisher):
    unpublished, lost, spent = client.post("answer"), client.post("answer"), client.post("answer", max_attempts=1)
    for job in (lost, spent):
        client.store.claim(job.id, "dead", 0.0)
    with client.store.database.write() as connection:  # an hour passes
        columns = {name: jobs.c[name] - 3_600_000_000 for name in ("lease_until", "hinted_at", "queued_at")}
        connection.execute(update(jobs).values(**columns))
    reaped = reaper.reap(client.store, publisher, silent_s=600)
    assert [hint.id for hint in reaped.expired] == [lost.id]
    assert reaped.failed == (spent.id,)
    assert publisher.sent == [(lost.id, "search"), (unpublished.id, "search")]
    assert client.get(spent).failure.kind == "worker_lost"


def test_a_worker_that_starts_removes_what_a_killed_one_left(client, make_runner, settings):
    ended, waiting = client.post("answer"), client.post("answer", "training")
    client.store.request_cancel(ended.id)
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
