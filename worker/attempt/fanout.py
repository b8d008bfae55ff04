"""A job's children: created once, announced to every worker, and run here too while their parent waits.

The parent keeps its slot and lends it to its own children, one at a time, so that a single slot suffices for any
number of them; every other worker takes children from the queue like any job. A second attempt of the parent finds
the children of the first by their keys, those that have ended included.
"""

from __future__ import annotations

import logging
import threading

from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import JobNotFound, ParentClosed, Superseded
from collegium.jobs.record import Child, Job, Kind, Queue
from collegium.jobs.states import ACTIVE
from collegium.worker import protocol
from collegium.worker.attempt.lease import Lease
from collegium.worker.attempt.resources import House
from collegium.worker.process.process import ComputeProcess
from collegium.worker.process.slots import Slot

log = logging.getLogger("collegium.worker")

QUEUE_OF: dict[Kind, Queue] = {"search": "search", "shard": "search", "training": "train", "study": "train"}


class FanOut:
    """The children that one attempt waits for."""

    def __init__(self, house: House, parent: Job, slot: Slot, process: ComputeProcess, lease: Lease) -> None:
        self._house = house
        self._parent = parent
        self._slot = slot
        self._process = process
        self._lease = lease
        self._waiting_for: list[str] = []
        self._told = -1
        self._own: threading.Thread | None = None
        self._closed = threading.Event()

    def begin(self, request: protocol.FanOut) -> None:
        """Create the children and announce them. Raises Superseded, JobNotFound."""
        try:
            asked = [
                Child(key=child["key"], kind=child["kind"], spec=child["spec"], queue=QUEUE_OF[child["kind"]])
                for child in request.children
            ]
            jobs = self._lease.insist(lambda: self._house.store.fan_out(self._parent.id, self._parent.attempt, asked))
        except ParentClosed:
            return  # being cancelled: the process is told so with the next heartbeat
        except (ValueError, KeyError) as error:
            self._process.send(protocol.FanIn([], error=f"the children cannot be created: {error!r}"))
            return
        self._waiting_for = [job.id for job in jobs]
        self._told = -1
        for job in jobs:
            if job.status == "queued":
                self._house.publisher.publish(job.id, job.queue)
        self.tick()

    def tick(self) -> None:
        """Look how the children stand: run a queued one here, answer the process when all have ended."""
        if not self._waiting_for:
            return
        try:
            counts = self._house.store.child_counts(self._parent.id)
        except UNAVAILABLE as error:
            log.warning("job %s: cannot look at its children: %s", self._parent.id, error)
            return
        active = sum(counts.get(status, 0) for status in ACTIVE)
        if active == 0:
            self._answer()
            return
        done = len(self._waiting_for) - active
        if done != self._told:
            self._told = done
            self._process.send(protocol.FanInProgress(done, len(self._waiting_for)))
        if counts.get("queued") and not (self._own and self._own.is_alive()) and not self._closed.is_set():
            self._own = threading.Thread(target=self._run_own, name=f"children-{self._parent.id}")
            self._own.start()

    def close(self, ended: Job | None) -> None:
        """Take no more children here and wait for the one that runs here. If the parent has ``ended``, nobody will read
        what the others find, so they are cancelled.
        """
        self._closed.set()
        if self._waiting_for and ended is not None and ended.terminal:
            self._cancel_children()
        if self._own is not None:
            self._own.join()

    def _answer(self) -> None:
        children = {
            child.id: child for child in self._lease.insist(lambda: self._house.store.children(self._parent.id))
        }
        outcomes = [_outcome(children[job_id]) for job_id in self._waiting_for]
        self._waiting_for = []
        self._process.send(protocol.FanIn(outcomes))

    def _run_own(self) -> None:
        house = self._house
        try:
            while not self._closed.is_set():
                child = house.store.claim_child(self._parent.id, house.name, house.settings.lease_s)
                if child is None:
                    return
                house.run_claimed(child, self._slot)
        except UNAVAILABLE as error:
            log.warning("job %s: cannot take a child: %s", self._parent.id, error)

    def _cancel_children(self) -> None:
        try:
            for child in self._house.store.children(self._parent.id):
                if not child.terminal:
                    self._house.store.request_cancel(child.id)
        except (JobNotFound, Superseded, *UNAVAILABLE) as error:
            log.warning("job %s: children could not be cancelled: %s", self._parent.id, error)


def _outcome(child: Job) -> dict[str, object]:
    return {
        "key": child.child_key,
        "id": child.id,
        "status": child.status,
        "result": child.result,
        "failure": child.failure and child.failure.as_dict(),
    }
