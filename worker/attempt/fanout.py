"""A job's children: created once, published to every worker, and also run in the parent's slot while it waits.

The parent keeps its slot and lends it to its own children, one at a time, so that a single slot suffices for any
number of them; every other worker takes children from the queue like any job. A second attempt of the parent finds
the children of the first by their keys, those that have ended included.
"""

from __future__ import annotations

import logging
import threading

from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import JobNotFound, ParentClosed, Superseded
from collegium.jobs.record import QUEUE_OF, Child, Job
from collegium.jobs.states import ACTIVE
from collegium.worker import protocol
from collegium.worker.attempt.lease import Lease
from collegium.worker.attempt.resources import Resources
from collegium.worker.process.process import ComputeProcess
from collegium.worker.process.slots import Slot

log = logging.getLogger("collegium.worker")


class ChildJobs:
    """The children that one attempt waits for."""

    def __init__(self, resources: Resources, parent: Job, slot: Slot, process: ComputeProcess, lease: Lease) -> None:
        self._resources = resources
        self._store = resources.store
        self._parent = parent
        self._slot = slot
        self._process = process
        self._lease = lease
        self._waiting_for: list[str] = []
        self._reported = -1
        self._own: threading.Thread | None = None
        self._closed = threading.Event()

    def start(self, request: protocol.StartChildren) -> None:
        """Create the children and publish them. Raises Superseded, JobNotFound."""
        try:
            requested = [
                Child(key=child["key"], kind=child["kind"], spec=child["spec"], queue=QUEUE_OF[child["kind"]])
                for child in request.children
            ]
            jobs = self._lease.insist(lambda: self._store.fan_out(self._parent.id, self._parent.attempt, requested))
        except ParentClosed:
            return  # being cancelled: the next heartbeat sends the process a cancel
        except (ValueError, KeyError) as error:
            self._process.send(protocol.ChildrenEnded([], error=f"the children cannot be created: {error!r}"))
            return
        self._waiting_for = [job.id for job in jobs]
        self._reported = -1
        for job in jobs:
            if job.status == "queued":
                self._resources.publisher.publish(job.id, job.queue)
        self.tick()

    def tick(self) -> None:
        """Check on the children: run a queued one here, send the outcomes when all have ended."""
        if not self._waiting_for:
            return
        try:
            counts = self._store.child_counts(self._parent.id)
        except UNAVAILABLE as error:
            log.warning("job %s: cannot read its children: %s", self._parent.id, error)
            return
        active = sum(counts.get(status, 0) for status in ACTIVE)
        if active == 0:
            self._send_outcomes()
            return
        done = len(self._waiting_for) - active
        if done != self._reported:
            self._reported = done
            self._process.send(protocol.ChildrenProgress(done, len(self._waiting_for)))
        if counts.get("queued") and not (self._own and self._own.is_alive()) and not self._closed.is_set():
            self._own = threading.Thread(target=self._run_own, name=f"children-{self._parent.id}")
            self._own.start()

    def close(self, ended: Job | None) -> None:
        """Take no more children here and wait for the one that runs here. If the parent has ``ended``, the results of
        the others have no reader, so they are cancelled.
        """
        self._closed.set()
        if self._waiting_for and ended is not None and ended.terminal:
            self._cancel_children()
        if self._own is not None:
            self._own.join()

    def _send_outcomes(self) -> None:
        children = {child.id: child for child in self._lease.insist(lambda: self._store.children(self._parent.id))}
        outcomes = [_child_outcome(children[job_id]) for job_id in self._waiting_for]
        self._waiting_for = []
        self._process.send(protocol.ChildrenEnded(outcomes))

    def _run_own(self) -> None:
        resources = self._resources
        try:
            while not self._closed.is_set():
                child = self._store.claim_child(self._parent.id, resources.name, resources.settings.lease_s)
                if child is None:
                    return
                resources.run_claimed(child, self._slot)
        except UNAVAILABLE as error:
            log.warning("job %s: cannot take a child: %s", self._parent.id, error)

    def _cancel_children(self) -> None:
        try:
            for child in self._store.children(self._parent.id):
                if not child.terminal:
                    self._store.request_cancel(child.id)
        except (JobNotFound, Superseded, *UNAVAILABLE) as error:
            log.warning("job %s: children could not be cancelled: %s", self._parent.id, error)


def _child_outcome(child: Job) -> dict[str, object]:
    return {
        "key": child.child_key,
        "id": child.id,
        "status": child.status,
        "result": child.result,
        "failure": child.failure and child.failure.as_dict(),
    }
