"""Keeps a job's lease from a thread of its own, so that neither computing nor publishing can delay a heartbeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import JobNotFound, Superseded
from collegium.jobs.record import Job
from collegium.jobs.store import JobStore

log = logging.getLogger("collegium.worker")

T = TypeVar("T")
RETRY_S = 0.5


@dataclass(frozen=True)
class CancelRequested:
    """Cancellation of the job was requested."""


@dataclass(frozen=True)
class LeaseLost:
    """This attempt no longer holds the job, or cannot confirm that it does."""

    reason: str


class Lease:
    """The lease of one attempt, renewed every ``heartbeat_s`` seconds until ``stop``.

    ``renewed`` is called after each heartbeat. ``notify`` is called once with ``CancelRequested``, and once with
    ``LeaseLost``: the attempt was superseded, or the database was unavailable for as long as the lease lasts. ``lost``,
    called before that, stops the computation at once.
    """

    def __init__(
        self,
        store: JobStore,
        job: Job,
        *,
        lease_s: float,
        heartbeat_s: float,
        renewed: Callable[[], None],
        lost: Callable[[], None],
        notify: Callable[[object], None],
    ) -> None:
        self._store = store
        self._job = job
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._renewed = renewed
        self._lost = lost
        self._notify = notify
        self._held_since = time.monotonic()
        self._stopped = threading.Event()
        self._is_lost = threading.Event()
        self._settling = False
        self._cancel_notified = False
        self._thread = threading.Thread(target=self._run, name=f"lease-{job.id}", daemon=True)

    @property
    def held(self) -> bool:
        """Whether the attempt may still write, as far as is known."""
        return not self._is_lost.is_set()

    def start(self) -> None:
        """Begin to renew; the claim has just granted the first lease."""
        self._held_since = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Renew no more."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def insist(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, repeated while the database is unavailable. Raises Superseded once the lease is lost,
        and whatever else the call raises.
        """
        while True:
            try:
                return call()
            except UNAVAILABLE as error:
                log.warning("job %s: the database is unavailable: %s", self._job.id, error)
                if self._is_lost.wait(RETRY_S):
                    raise Superseded(self._job.id, self._job.attempt) from error

    def settle(self, call: Callable[[], T]) -> T:
        """``insist`` on the attempt's last write, which ends its hold on the job without losing the lease."""
        self._settling = True
        return self.insist(call)

    def _run(self) -> None:
        while not self._stopped.wait(self._heartbeat_s) and self.held:
            self._beat()

    def _beat(self) -> None:
        # Measured from before the call: the database grants the lease at some moment during it.
        sent = time.monotonic()
        try:
            beat = self._store.heartbeat(self._job.id, self._job.attempt, self._lease_s)
        except (Superseded, JobNotFound) as error:
            if not self._settling:
                self._lose(str(error))
            return
        except UNAVAILABLE as error:
            log.warning("job %s: no heartbeat, the database is unavailable: %s", self._job.id, error)
            if time.monotonic() - self._held_since > self._lease_s:
                self._lose("no heartbeat reached the database for the length of a lease")
            return
        self._held_since = sent
        self._renewed()
        if beat.cancel_requested and not self._cancel_notified:
            self._cancel_notified = True
            self._notify(CancelRequested())

    def _lose(self, reason: str) -> None:
        self._is_lost.set()
        self._lost()
        self._notify(LeaseLost(reason))
