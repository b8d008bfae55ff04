"""Supervises one attempt at one job, from the claim to the last, fenced write.

::

    claim ─▶ send run ─▶ receive messages ── result ──▶ publish ─▶ succeed
                          │ ▲                └─ failure ─▶ publish ─▶ fail
                          │ └─ the lease is renewed meanwhile
                          ├─ cancel, timeout, shutdown: send cancel ─▶ SIGTERM ─▶ SIGKILL
                          └─ lease lost: SIGKILL, and nothing further is written

The supervisor is a thread that waits; it never loads torch, and no failure of the process reaches it.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass

from collegium.jobs.errors import JobNotFound, Superseded
from collegium.jobs.record import Job
from collegium.worker import failures, protocol
from collegium.worker.attempt.finish import AttemptOutcome, Failed, Finisher, Lost, Released, Stopped, Succeeded
from collegium.worker.attempt.lease import CancelRequested, Lease, LeaseLost
from collegium.worker.attempt.messages import Messages
from collegium.worker.attempt.resources import Resources
from collegium.worker.attempt.workspace import Workspace
from collegium.worker.failures import Cause, MemoryKills
from collegium.worker.process.process import Exited, MalformedMessage
from collegium.worker.process.slots import Slot
from collegium.worker.protocol import ProtocolError

log = logging.getLogger("collegium.worker")

TICK_S = 0.25
# A process is replaced after so many jobs, which bounds what it may leak.
MOST_JOBS = 32


@dataclass(frozen=True)
class Shutdown:
    """The worker shuts down."""


@dataclass
class Ending:
    """The process was sent ``cancel``; unless it stops, it gets SIGTERM at ``term_at`` and SIGKILL at ``kill_at``."""

    outcome: AttemptOutcome
    term_at: float
    kill_at: float
    termed: bool = False


class Attempt:
    """One attempt. ``run`` does everything; ``shutdown`` may be called from any thread meanwhile."""

    def __init__(self, resources: Resources, job: Job, slot: Slot) -> None:
        self._resources = resources
        self._settings = resources.settings
        self._job = job
        self._slot = slot
        self._workspace = Workspace(resources.settings.home, job)
        self._memory = MemoryKills()
        self._process = resources.spares.take(fresh=job.parent_id is None)
        self._lease = Lease(
            resources.store,
            job,
            lease_s=resources.settings.lease_s,
            heartbeat_s=resources.settings.heartbeat_s,
            renewed=lambda: self._process.send(protocol.LeaseRenewed()),
            lost=self._process.kill,
            notify=self._process.inbox.put,
        )
        self._messages = Messages(resources, job, slot, self._process, self._lease)
        self._ending: Ending | None = None
        self._timeout_s = resources.settings.timeout_s(job.kind)
        self._deadline = time.monotonic() + self._timeout_s

    def shutdown(self) -> None:
        """Stop the attempt and give its job back."""
        self._process.inbox.put(Shutdown())

    def run(self) -> None:
        """Run the attempt to its end; no process or folder of it is left afterwards."""
        self._lease.start()
        reusable, ended = False, None
        try:
            outcome = self._supervise()
            reusable = isinstance(outcome, Succeeded) and self._process_is_reusable()
            if not reusable:
                # Dead before its files are published, so that nothing writes to them any more.
                self._process.end()
            log.info("job %s, attempt %d: %s", self._job.id, self._job.attempt, outcome)
            ended = Finisher(self._resources, self._job, self._workspace, self._lease, self._process.log).write(outcome)
        finally:
            self._lease.stop()
            self._resources.spares.give_back(self._process) if reusable else self._process.end()
            self._messages.children.close(ended)

    def _process_is_reusable(self) -> bool:
        """Whether the process may serve another job when this one has succeeded.

        Only children of a search or of a study share processes, since importing torch would take most of their time;
        and not on a GPU, whose memory a process keeps.
        """
        child = self._job.parent_id is not None
        return child and self._slot.device == "cpu" and self._process.jobs < MOST_JOBS

    def _supervise(self) -> AttemptOutcome:
        try:
            self._workspace.create()
            self._process.jobs += 1
            self._process.send(self._run_message())
            outcome = self._await_outcome()
            if not isinstance(outcome, Lost):
                self._messages.settle()
            return outcome
        except (Superseded, JobNotFound) as error:
            return Lost(str(error))
        except ProtocolError as error:
            return Failed(Cause("internal", f"The computing process sent a message that is not allowed: {error}"))
        except OSError as error:
            return Failed(Cause("internal", f"The job's folders cannot be created: {error}", retry=True))
        except Exception as error:
            # A fault of the supervisor itself must not leave the job to its lease.
            log.exception("job %s: its supervisor failed", self._job.id)
            return Failed(Cause("internal", f"The supervisor failed: {type(error).__name__}: {error}", retry=True))

    def _run_message(self) -> protocol.Run:
        return protocol.Run(
            job=self._job.id,
            attempt=self._job.attempt,
            kind=self._job.kind,
            spec=self._job.spec,
            workdir=str(self._workspace.workdir),
            checkpoint_dir=str(self._workspace.checkpoint_dir),
            data_dir=str(self._settings.data_dir),
            datasets_dir=str(self._settings.datasets_dir),
            device=self._slot.device,
            threads=self._slot.threads,
            environment=self._slot.environment,
            lease_s=self._settings.lease_s,
        )

    def _await_outcome(self) -> AttemptOutcome:
        while True:
            try:
                outcome = self._handle(self._process.inbox.get(timeout=TICK_S))
            except queue.Empty:
                outcome = None
            if outcome is not None:
                return outcome
            self._escalate(time.monotonic())
            self._messages.tick()

    def _handle(self, notice: object) -> AttemptOutcome | None:
        match notice:
            case protocol.JobSucceeded(result):
                return Succeeded(result)
            case protocol.JobFailed(kind, message, remedy):
                # A failure under SIGTERM is the signal's, not the job's.
                termed = self._ending and self._ending.termed
                return self._end() if termed else Failed(Cause(failures.kind_of(kind), message, remedy))
            case protocol.JobCancelled():
                return self._end() or Failed(failures.from_exit(-15, killed_for_memory=False))
            case Exited(returncode):
                return self._end() or Failed(failures.from_exit(returncode, self._memory.happened()))
            case MalformedMessage(line):
                return Failed(Cause("internal", f"The computing process wrote a line that is not a message: {line}"))
            case LeaseLost(reason):
                return Lost(reason)
            case CancelRequested():
                self._stop(Stopped(), self._settings.cancel_grace_s)
            case Shutdown():
                self._stop(Released(), self._settings.shutdown_grace_s)
            case protocol.Message():
                self._messages.handle(notice)
        return None

    def _end(self) -> AttemptOutcome | None:
        return self._ending and self._ending.outcome

    def _stop(self, outcome: AttemptOutcome, grace_s: float) -> None:
        """Send ``cancel``. A cancellation takes precedence over a shutdown: the job must not run again."""
        term_at = time.monotonic() + grace_s
        kill_at = term_at + self._settings.term_grace_s
        if self._ending is None:
            self._ending = Ending(outcome, term_at, kill_at)
            self._process.send(protocol.Cancel())
            return
        if isinstance(outcome, Stopped):
            self._ending.outcome = outcome
        self._ending.term_at = min(self._ending.term_at, term_at)
        self._ending.kill_at = min(self._ending.kill_at, kill_at)

    def _escalate(self, now: float) -> None:
        ending = self._ending
        if ending is None:
            if now > self._deadline:
                message = f"The job was stopped after the {self._timeout_s:g} seconds that a {self._job.kind} may take."
                self._stop(Failed(Cause("timeout", message)), self._settings.cancel_grace_s)
        elif now > ending.kill_at:
            self._process.kill()
        elif now > ending.term_at and not ending.termed:
            ending.termed = True
            self._process.terminate()
