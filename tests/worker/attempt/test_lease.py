"""A lease is renewed during the work, survives a short outage of the database, and is given up after a long one."""

import queue
import time

import pytest
from sqlalchemy.exc import OperationalError

from collegium.jobs.errors import Superseded
from collegium.worker.attempt.lease import CancelRequested, Lease, LeaseLost


class Unreliable:
    """A store whose database can be taken away."""

    def __init__(self, store):
        self._store = store
        self.reachable = True
        self.refused = 0

    def __getattr__(self, name):
        if not self.reachable:
            self.refused += 1
            raise OperationalError("no", {}, Exception("connection refused"))
        return getattr(self._store, name)


class Recorder:
    """The calls that the lease made."""

    def __init__(self):
        self.notices = queue.SimpleQueue()
        self.renewals = 0
        self.killed = False

    def renewed(self):
        self.renewals += 1

    def lost(self):
        self.killed = True


@pytest.fixture
def held(client):
    """A claimed job, a store that can fail, the recorded calls, and the lease."""
    store, recorder = Unreliable(client.store), Recorder()
    job = client.store.claim(client.post("answer").id, "w", 1.0)
    lease = Lease(
        store,
        job,
        lease_s=0.8,
        heartbeat_s=0.05,
        renewed=recorder.renewed,
        lost=recorder.lost,
        notify=recorder.notices.put,
    )
    lease.start()
    yield client, job, store, recorder, lease
    lease.stop()
    store.reachable = True
    if not client.get(job).terminal:
        client.store.succeed(job.id, client.get(job).attempt, {})


def test_it_outlives_its_first_grant(held):
    client, _job, _, recorder, lease = held
    client.wait_until(lambda: recorder.renewals > 24, "it is renewed for longer than the first second")
    assert not client.store.reap().expired
    assert lease.held


def test_a_short_outage_loses_no_lease(held):
    client, _, store, recorder, lease = held
    store.reachable = False
    client.wait_until(lambda: store.refused > 3, "renewals fail")
    store.reachable, before = True, recorder.renewals
    client.wait_until(lambda: recorder.renewals > before + 3, "it is renewed again")
    assert lease.held
    assert not recorder.killed


def test_an_outage_of_a_lease_kills(held):
    _, _, store, recorder, lease = held
    store.reachable = False
    begun = time.monotonic()
    notice = recorder.notices.get(timeout=5)
    assert isinstance(notice, LeaseLost)
    assert 0.5 < time.monotonic() - begun < 3
    assert recorder.killed
    assert not lease.held


def test_being_superseded_kills_at_once(held):
    client, job, _, recorder, lease = held
    client.store.release(job.id, job.attempt)
    client.store.claim(job.id, "another", 30.0)
    assert isinstance(recorder.notices.get(timeout=5), LeaseLost)
    assert recorder.killed
    assert not lease.held


def test_a_cancellation_is_notified_once(held):
    client, job, _, recorder, _ = held
    client.store.request_cancel(job.id)
    assert isinstance(recorder.notices.get(timeout=5), CancelRequested)
    before = recorder.renewals
    client.wait_until(lambda: recorder.renewals > before + 3, "further heartbeats see the request")
    assert recorder.notices.empty()
    client.store.finish_cancelled(job.id, job.attempt)


def test_insisting_waits_for_the_database(held):
    _desk, job, store, _watch, lease = held
    store.reachable = False
    begun = time.monotonic()

    def ask():
        store.reachable = time.monotonic() - begun > 0.4
        return store.get(job.id).id

    assert lease.insist(ask) == job.id


def test_insisting_ends_with_the_lease(held):
    _, job, store, _, lease = held
    store.reachable = False
    with pytest.raises(Superseded):
        lease.insist(lambda: store.get(job.id))


def test_the_last_write_is_no_loss(held):
    client, job, _, recorder, lease = held
    lease.settle(lambda: client.store.succeed(job.id, job.attempt, {}))
    time.sleep(0.2)
    assert recorder.notices.empty()
    assert not recorder.killed
