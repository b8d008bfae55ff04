"""What a process asks and tells while its job runs, and what the store answers."""

from __future__ import annotations

import logging
import time
from typing import Any

from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import EventType, Job
from collegium.jobs.transactions.events import WRITABLE
from collegium.worker import protocol
from collegium.worker.attempt.fanout import FanOut
from collegium.worker.attempt.lease import Lease
from collegium.worker.attempt.resources import House
from collegium.worker.process.process import ComputeProcess
from collegium.worker.process.slots import Slot
from collegium.worker.protocol import Message

log = logging.getLogger("collegium.worker")

# A reader sees progress at most this share of the job's age late, so that a week's training leaves no million rows.
PROGRESS_SHARE = 0.005
SLOWEST_PROGRESS_S = 10.0
MOST_EVENTS = 10_000


class Conversation:
    """Answers one process, on behalf of the attempt that holds the job."""

    def __init__(self, house: House, job: Job, slot: Slot, process: ComputeProcess, lease: Lease) -> None:
        self._house = house
        self._store = house.store
        self._job = job
        self._process = process
        self._lease = lease
        self.fan_out = FanOut(house, job, slot, process, lease)
        self._started = time.monotonic()
        self._progress: protocol.Progress | None = None
        self._events: list[tuple[EventType, dict[str, Any]]] = []
        self._write_at = 0.0

    def hear(self, message: Message) -> None:
        """Act on one message. Raises Superseded, JobNotFound."""
        match message:
            case protocol.Progress():
                self._progress = message
            case protocol.Event(event_type, data):
                self._add_event(event_type, data)
            case protocol.KnownQuery(key):
                value = self._lease.insist(lambda: self._store.get_estimate(key))
                self._process.send(protocol.Known(key, value))
            case protocol.Remember(key, value):
                self._lease.insist(lambda: self._store.put_estimate(key, value))
            case protocol.JobQuery(job_id):
                self._process.send(protocol.JobInfo(job_id, self._lease.insist(lambda: self._look_up(job_id))))
            case protocol.FanOut():
                self.fan_out.begin(message)

    def tick(self) -> None:
        """Write what has gathered, if it is time, and look after the children. Raises Superseded, JobNotFound."""
        now = time.monotonic()
        if now >= self._write_at and (self._progress or self._events):
            self.flush()
            age = now - self._started
            self._write_at = now + max(self._house.settings.progress_s, min(SLOWEST_PROGRESS_S, PROGRESS_SHARE * age))
        self.fan_out.tick()

    def flush(self) -> None:
        """Write what has gathered; it stays where it is while the database does not answer."""
        job = self._job
        try:
            if self._events:
                self._store.append_events(job.id, job.attempt, self._events)
                self._events = []
            if self._progress is not None:
                self._store.report(job.id, job.attempt, self._progress.fraction, self._progress.message)
                self._progress = None
        except UNAVAILABLE as error:
            log.warning("job %s: progress not written, the database does not answer: %s", job.id, error)

    def _add_event(self, event_type: str, data: dict[str, Any]) -> None:
        if event_type in WRITABLE and len(self._events) < MOST_EVENTS:
            self._events.append((event_type, data))

    def _look_up(self, job_id: str) -> dict[str, Any] | None:
        try:
            job = self._store.get(job_id)
        except JobNotFound:
            return None
        return {"id": job.id, "kind": job.kind, "status": job.status, "spec": job.spec, "result": job.result}
