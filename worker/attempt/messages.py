"""Messages of a computing process while its job runs: progress, events and requests, passed to the store."""

from __future__ import annotations

import logging
import time
from typing import Any

from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.record import Job, check_writable
from collegium.worker import protocol
from collegium.worker.attempt.fanout import ChildJobs
from collegium.worker.attempt.lease import Lease
from collegium.worker.attempt.resources import Resources
from collegium.worker.process.process import ComputeProcess
from collegium.worker.process.slots import Slot
from collegium.worker.protocol import Message, ProtocolError

log = logging.getLogger("collegium.worker")

# Progress is written at most this share of the job's age late, so that a week's training leaves no million rows.
PROGRESS_SHARE = 0.005
SLOWEST_PROGRESS_S = 10.0
MOST_EVENTS = 10_000


class Messages:
    """Handles the messages of one process, on behalf of the attempt that holds the job."""

    def __init__(self, resources: Resources, job: Job, slot: Slot, process: ComputeProcess, lease: Lease) -> None:
        self._progress_s = resources.settings.progress_s
        self._store = resources.store
        self._job = job
        self._process = process
        self._lease = lease
        self.children = ChildJobs(resources, job, slot, process, lease)
        self._started = time.monotonic()
        self._progress: protocol.Progress | None = None
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._events_dropped = False
        self._write_at = 0.0

    def handle(self, message: Message) -> None:
        """Act on one message. Raises ProtocolError, Superseded, JobNotFound."""
        match message:
            case protocol.Progress():
                self._progress = message
            case protocol.AddEvent(event_type, data):
                self._add_event(event_type, data)
            case protocol.GetEstimate(key):
                value = self._lease.insist(lambda: self._store.get_estimate(key))
                self._process.send(protocol.Estimate(key, value))
            case protocol.PutEstimate(key, value):
                self._lease.insist(lambda: self._store.put_estimate(key, value))
            case protocol.WriteEvents():
                self.settle()
                self._process.send(protocol.EventsWritten())
            case protocol.StartChildren():
                self.children.start(message)

    def tick(self) -> None:
        """Write what is pending, if it is due, and check on the children. Raises Superseded, JobNotFound."""
        now = time.monotonic()
        if now >= self._write_at and (self._progress or self._events):
            self.flush()
            age = now - self._started
            interval = max(self._progress_s, min(SLOWEST_PROGRESS_S, PROGRESS_SHARE * age))
            self._write_at = now + interval
        self.children.tick()

    def flush(self) -> None:
        """Write what is pending; it stays pending while the database is unavailable."""
        try:
            self._write()
        except UNAVAILABLE as error:
            log.warning("job %s: progress not written, the database is unavailable: %s", self._job.id, error)

    def settle(self) -> None:
        """Write what is pending, however long the database is unavailable. Raises Superseded, JobNotFound."""
        self._lease.insist(self._write)

    def _write(self) -> None:
        job = self._job
        if self._events:
            self._store.append_events(job.id, job.attempt, self._events)
            self._events, self._events_dropped = [], False
        if self._progress is not None:
            self._store.report(job.id, job.attempt, self._progress.fraction, self._progress.message)
            self._progress = None

    def _add_event(self, event_type: str, data: dict[str, Any]) -> None:
        try:
            check_writable(event_type)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if len(self._events) < MOST_EVENTS:
            self._events.append((event_type, data))
        elif not self._events_dropped:
            self._events_dropped = True
            log.error("job %s: %d events wait for the database; further ones are dropped", self._job.id, MOST_EVENTS)
