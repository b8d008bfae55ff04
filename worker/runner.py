"""A worker's loop: it takes jobs that messages name and jobs that a poll finds, and runs each in a free slot."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from collegium.jobs.broker import Publisher
from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import JobNotFound
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.record import Failure, Job, Queue, Reaped
from collegium.jobs.store import JobStore
from collegium.worker.attempt import workspace
from collegium.worker.attempt.attempt import Attempt
from collegium.worker.attempt.resources import Resources
from collegium.worker.failures import REMEDIES
from collegium.worker.process.slots import Slot, SlotPool
from collegium.worker.process.spares import Spares
from collegium.worker.settings import WorkerSettings

log = logging.getLogger("collegium.worker")


class Runner:
    """Runs jobs in the slots of one worker.

    A message that finds no free slot is dropped: the job's row still says ``queued``, and the first worker with a free
    slot of its queue, this one or another, finds it with its poll. So no worker holds back jobs that another could run.
    """

    def __init__(
        self,
        name: str,
        settings: WorkerSettings,
        store: JobStore,
        artifacts: ArtifactStore,
        publisher: Publisher,
        slots: Sequence[Slot],
        limit: int | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._slots = SlotPool(slots, limit)
        self._spares = Spares(settings)
        self._resources = Resources(name, settings, store, artifacts, publisher, self._spares, self.run_claimed)
        self._attempts: set[Attempt] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._wake_poll = threading.Event()
        self._loops = [
            threading.Thread(target=self._poll, name="poll"),
            threading.Thread(target=self._reap, name="reap"),
        ]

    def start(self) -> None:
        """Start the spares, remove what a killed worker left, and begin to poll."""
        self._settings.home.mkdir(parents=True, exist_ok=True)
        self._spares.fill()
        workspace.sweep(self._settings.home, self._store)
        for loop in self._loops:
            loop.start()

    def run(self, job_id: str) -> None:
        """Run this job if it waits and a slot of its queue is free; returns when its attempt has ended."""
        try:
            job = self._store.get(job_id)
        except JobNotFound:
            log.warning("a message names job %s, which does not exist", job_id)
            return
        if job.status != "queued" or self._stopping.is_set():
            return
        slot = self._slots.try_acquire(job.queue)
        if slot is not None:
            self._run_in(slot, lambda: self._store.claim(job_id, self._resources.name, self._settings.lease_s))

    def reap_once(self) -> None:
        """Requeue the jobs of workers that died, and publish again those whose message may be lost."""
        try:
            reap(self._store, self._resources.publisher, silent_s=2 * self._settings.reap_s)
        except UNAVAILABLE as error:
            log.warning("cannot reap: %s", error)

    def stop(self) -> None:
        """Take no more jobs and stop those that run; they go back to their queue. Does not wait."""
        self._stopping.set()
        self._wake_poll.set()
        with self._lock:
            attempts = list(self._attempts)
        for attempt in attempts:
            attempt.shutdown()

    def close(self) -> None:
        """Stop, and wait until every attempt and every process of this worker has ended."""
        self.stop()
        for loop in self._loops:
            if loop.ident is not None:
                loop.join()
        for thread in list(self._threads):
            thread.join()
        self._spares.close()

    def run_claimed(self, job: Job, slot: Slot) -> None:
        """Run an attempt that this worker has claimed, in a slot that the caller holds."""
        log.info("job %s, attempt %d: %s in slot %s", job.id, job.attempt, job.kind, slot.name)
        try:
            attempt = Attempt(self._resources, job, slot)
        except OSError as error:
            log.exception("job %s: no process can be started", job.id)
            failure = Failure("internal", f"No computing process can be started: {error}", REMEDIES["worker_lost"])
            self._store.fail(job.id, job.attempt, failure, retry=True)
            return
        with self._lock:
            self._attempts.add(attempt)
        # Stopped between the claim and now.
        if self._stopping.is_set():
            attempt.shutdown()
        # The next spare warms up while this process computes.
        threading.Thread(target=self._spares.fill, name="spares").start()
        try:
            attempt.run()
        finally:
            with self._lock:
                self._attempts.discard(attempt)

    def _run_in(self, slot: Slot, claim: Callable[[], Job | None]) -> None:
        try:
            job = claim()
            if job is not None:
                self.run_claimed(job, slot)
        except UNAVAILABLE as error:
            log.warning("cannot take a job: %s", error)
        finally:
            self._slots.release(slot)
            self._wake_poll.set()

    def _poll(self) -> None:
        """Fill free slots with jobs for which no message arrived."""
        while not self._stopping.is_set():
            try:
                for queue in self._slots.queues:
                    self._fill(queue)
            except UNAVAILABLE as error:
                log.warning("cannot poll for jobs: %s", error)
            self._spares.tidy()
            self._wake_poll.wait(self._settings.poll_s)
            self._wake_poll.clear()

    def _fill(self, queue: Queue) -> None:
        # A slot is taken only when a job waits for it: a message that arrives meanwhile must find it free.
        while not self._stopping.is_set() and self._slots.has_room(queue):
            if self._store.next_queued(queue) is None:
                return
            slot = self._slots.try_acquire(queue)
            if slot is None:
                return
            job = self._claim_next(slot)
            if job is None:
                return
            thread = threading.Thread(target=self._run_in, args=(slot, lambda job=job: job), name=f"job-{job.id}")
            self._threads = {thread for thread in self._threads if thread.is_alive()} | {thread}
            thread.start()

    def _claim_next(self, slot: Slot) -> Job | None:
        job = None
        try:
            job = self._store.claim_next(slot.queue, self._resources.name, self._settings.lease_s)
            return job
        finally:
            if job is None:
                self._slots.release(slot)

    def _reap(self) -> None:
        while not self._stopping.wait(self._settings.reap_s):
            self.reap_once()


log = logging.getLogger("collegium.worker")


def reap(store: JobStore, publisher: Publisher, *, silent_s: float) -> Reaped:
    """One round; any number of workers may reap at once. Jobs without a message for ``silent_s`` are published again.

    Raises one of ``collegium.jobs.database.engine.UNAVAILABLE``.
    """
    reaped = store.reap()
    for hint in reaped.expired:
        log.warning("job %s: its lease ran out; it is queued again", hint.id)
        publisher.publish(hint.id, hint.queue)
    for job_id in reaped.failed:
        log.error("job %s: lost with its last attempt", job_id)
    for hint in store.publishable(older_than_s=silent_s):
        publisher.publish(hint.id, hint.queue)
    return reaped
