"""Supervises one attempt at one job, from the claim to the last, fenced write.

::

    claim ─▶ process told to run ─▶ listen ──────────── result ──▶ publish ─▶ succeed
                                     │ ▲  lease renewed └─ failure ─▶ publish ─▶ fail
                                     │ └──beside it
                                     ├─ cancel, timeout, shutdown: ask ─▶ SIGTERM ─▶ SIGKILL
                                     └─ lease lost: SIGKILL, and not a word more

The supervisor is a thread that waits; it never loads torch, and nothing that happens to the process happens to it.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass

from collegium.jobs.errors import JobNotFound, Superseded
from collegium.jobs.record import Job
from collegium.worker import failures, protocol
from collegium.worker.attempt.finish import Conclusion, Failed, Lost, Released, Stopped, Succeeded, Verdict
from collegium.worker.attempt.lease import CancelRequested, Lease, LeaseLost
from collegium.worker.attempt.messages import Conversation
from collegium.worker.attempt.resources import House
from collegium.worker.attempt.workspace import Workspace
from collegium.worker.failures import Cause, MemoryKills
from collegium.worker.process.process import Exited, Garbled
from collegium.worker.process.slots import Slot

log = logging.getLogger("collegium.worker")

TICK_S = 0.25
# After so many jobs a process is replaced, whatever it may have gathered.
MOST_JOBS = 32


@dataclass(frozen=True)
class Shutdown:
    """The worker is asked to end."""


@dataclass
class Ending:
    """The process was asked to stop; what is not heard is said louder, at these times."""

    verdict: Verdict
    term_at: float
    kill_at: float
    termed: bool = False


class Attempt:
    """One attempt. ``run`` does everything; ``shutdown`` may be called from any thread meanwhile."""

    def __init__(self, house: House, job: Job, slot: Slot) -> None:
        self._house = house
        self._settings = house.settings
        self._job = job
        self._slot = slot
        self._workspace = Workspace(house.settings.home, job)
        self._memory = MemoryKills()
        self._process = house.spares.take(fresh=job.parent_id is None)
        self._lease = Lease(
            house.store,
            job,
            lease_s=house.settings.lease_s,
            heartbeat_s=house.settings.heartbeat_s,
            renewed=lambda: self._process.send(protocol.Alive()),
            lost=self._process.kill,
            notify=self._process.inbox.put,
        )
        self._conversation = Conversation(house, job, slot, self._process, self._lease)
        self._ending: Ending | None = None
        self._timeout_s = house.settings.timeout_s(job.kind)
        self._deadline = time.monotonic() + self._timeout_s

    def shutdown(self) -> None:
        """Ask the attempt to stop and give its job back."""
        self._process.inbox.put(Shutdown())

    def run(self) -> None:
        """Run the attempt to its end; nothing of it is left afterwards."""
        self._lease.start()
        reusable, ended = False, None
        try:
            verdict = self._supervise()
            reusable = isinstance(verdict, Succeeded) and self._is_part()
            if not reusable:
                # Dead before its files are published: nobody writes to them any more.
                self._process.end()
            log.info("job %s, attempt %d: %s", self._job.id, self._job.attempt, verdict)
            ended = Conclusion(self._house, self._job, self._workspace, self._lease, self._process.log).write(verdict)
        finally:
            self._lease.stop()
            self._house.spares.give_back(self._process) if reusable else self._process.end()
            self._conversation.fan_out.close(ended)

    def _is_part(self) -> bool:
        """Whether the process may serve another job when this one has succeeded.

        Only parts of a search or of a study share processes, which would spend their time on importing torch else; and
        not on a GPU, whose memory a process keeps.
        """
        child = self._job.parent_id is not None
        return child and self._slot.device == "cpu" and self._process.jobs < MOST_JOBS

    def _supervise(self) -> Verdict:
        try:
            self._workspace.create()
            self._process.jobs += 1
            self._process.send(self._order())
            verdict = self._listen()
            if not isinstance(verdict, Lost):
                self._conversation.flush()
            return verdict
        except (Superseded, JobNotFound) as error:
            return Lost(str(error))
        except OSError as error:
            return Failed(Cause("internal", f"The job's folders cannot be made: {error}", retry=True))
        except Exception as error:
            # A fault of the supervisor itself must not leave the job to its lease.
            log.exception("job %s: its supervisor failed", self._job.id)
            return Failed(Cause("internal", f"The supervisor failed: {type(error).__name__}: {error}", retry=True))

    def _order(self) -> protocol.Run:
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

    def _listen(self) -> Verdict:
        while True:
            try:
                verdict = self._hear(self._process.inbox.get(timeout=TICK_S))
            except queue.Empty:
                verdict = None
            if verdict is not None:
                return verdict
            self._escalate(time.monotonic())
            self._conversation.tick()

    def _hear(self, notice: object) -> Verdict | None:
        match notice:
            case protocol.Result(result):
                return Succeeded(result)
            case protocol.Failure(kind, message, remedy):
                # What breaks under SIGTERM says nothing about the job.
                termed = self._ending and self._ending.termed
                return self._end() if termed else Failed(Cause(failures.kind_of(kind), message, remedy))
            case protocol.Cancelled():
                return self._end() or Failed(failures.from_exit(-15, killed_for_memory=False))
            case Exited(returncode):
                return self._end() or Failed(failures.from_exit(returncode, self._memory.happened()))
            case Garbled(line):
                return Failed(Cause("internal", f"The computing process wrote what is no message: {line}"))
            case LeaseLost(reason):
                return Lost(reason)
            case CancelRequested():
                self._ask(Stopped(), self._settings.cancel_grace_s)
            case Shutdown():
                self._ask(Released(), self._settings.shutdown_grace_s)
            case protocol.Message():
                self._conversation.hear(notice)
        return None

    def _end(self) -> Verdict | None:
        return self._ending and self._ending.verdict

    def _ask(self, verdict: Verdict, grace_s: float) -> None:
        """Ask the process to stop. A cancellation outranks a shutdown: the job shall not run again."""
        term_at = time.monotonic() + grace_s
        kill_at = term_at + self._settings.term_grace_s
        if self._ending is None:
            self._ending = Ending(verdict, term_at, kill_at)
            self._process.send(protocol.Cancel())
            return
        if isinstance(verdict, Stopped):
            self._ending.verdict = verdict
        self._ending.term_at = min(self._ending.term_at, term_at)
        self._ending.kill_at = min(self._ending.kill_at, kill_at)

    def _escalate(self, now: float) -> None:
        ending = self._ending
        if ending is None:
            if now > self._deadline:
                message = f"The job was stopped after the {self._timeout_s:g} seconds that a {self._job.kind} may take."
                self._ask(Failed(Cause("timeout", message)), self._settings.cancel_grace_s)
        elif now > ending.kill_at:
            self._process.kill()
        elif now > ending.term_at and not ending.termed:
            ending.termed = True
            self._process.terminate()
