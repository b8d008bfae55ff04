"""A lease is renewed beside the work, survives a short silence of the database, and is given up after a long one."""

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

    def __getattr__(self, name):
        if not self.reachable:
            raise OperationalError("no", {}, Exception("connection refused"))
        return getattr(self._store, name)


class Watch:
    """What the lease told."""

    def __init__(self):
        self.notices = queue.SimpleQueue()
        self.renewals = 0
        self.killed = False

    def renewed(self):
        self.renewals += 1

    def lost(self):
        self.killed = True


@pytest.fixture
def held(desk):
    """A claimed job, a store that can fail, what is told, and the lease."""
    store, watch = Unreliable(desk.store), Watch()
    job = desk.store.claim(desk.post("answer").id, "w", 1.0)
    lease = Lease(
        store,
        job,
        lease_s=0.8,
        heartbeat_s=0.05,
        renewed=watch.renewed,
        lost=watch.lost,
        notify=watch.notices.put,
    )
    lease.start()
    yield desk, job, store, watch, lease
    lease.stop()
    store.reachable = True
    if not desk.get(job).terminal:
        desk.store.succeed(job.id, desk.get(job).attempt, {})


def test_it_outlives_its_first_grant(held):
    desk, _job, _, watch, lease = held
    time.sleep(1.2)
    assert not desk.store.reap().expired
    assert watch.renewals > 3
    assert lease.held


def test_a_short_silence_is_no_loss(held):
    _, _, store, watch, lease = held
    store.reachable = False
    time.sleep(0.3)
    store.reachable = True
    time.sleep(0.3)
    assert lease.held
    assert not watch.killed


def test_a_silence_of_a_lease_kills(held):
    _, _, store, watch, lease = held
    store.reachable = False
    begun = time.monotonic()
    notice = watch.notices.get(timeout=5)
    assert isinstance(notice, LeaseLost)
    assert 0.5 < time.monotonic() - begun < 3
    assert watch.killed
    assert not lease.held


def test_being_superseded_kills_at_once(held):
    desk, job, _, watch, lease = held
    desk.store.release(job.id, job.attempt)
    desk.store.claim(job.id, "another", 30.0)
    assert isinstance(watch.notices.get(timeout=5), LeaseLost)
    assert watch.killed
    assert not lease.held


def test_a_cancellation_is_told_once(held):
    desk, job, _, watch, _ = held
    desk.store.request_cancel(job.id)
    assert isinstance(watch.notices.get(timeout=5), CancelRequested)
    time.sleep(0.3)
    assert watch.notices.empty()
    desk.store.finish_cancelled(job.id, job.attempt)


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
    desk, job, _, watch, lease = held
    lease.settle(lambda: desk.store.succeed(job.id, job.attempt, {}))
    time.sleep(0.2)
    assert watch.notices.empty()
    assert not watch.killed
