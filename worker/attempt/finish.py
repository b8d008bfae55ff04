"""The last write of an attempt: its files first, then one fenced commit that makes them the job's."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import CancelNotRequested, InvalidName, JobNotFound, NotStorable, Superseded
from collegium.jobs.record import Artifact, Failure, Job
from collegium.worker.attempt.lease import Lease
from collegium.worker.attempt.resources import Resources
from collegium.worker.attempt.workspace import NotPublished, Workspace
from collegium.worker.failures import Cause
from collegium.worker.process.process import LogTail

log = logging.getLogger("collegium.worker")


class Finisher:
    """Writes how one attempt ended."""

    def __init__(self, resources: Resources, job: Job, workspace: Workspace, lease: Lease, printed: LogTail) -> None:
        self._resources = resources
        self._store = resources.store
        self._job = job
        self._workspace = workspace
        self._lease = lease
        self._printed = printed

    def write(self, outcome: AttemptOutcome) -> Job | None:
        """Write it, and remove what the attempt no longer needs; the job afterwards, or None if the attempt lost it."""
        try:
            job = self._commit(outcome)
        except (Superseded, JobNotFound) as error:
            log.warning("job %s, attempt %d wrote nothing: %s", self._job.id, self._job.attempt, error)
            self._delete_files()
            job = None
        self._workspace.discard(ended=job is not None and job.terminal)
        return job

    def _commit(self, outcome: AttemptOutcome) -> Job | None:
        match outcome:
            case Succeeded(result):
                return self._succeed(result)
            case Failed(cause):
                return self._fail(cause)
            case Stopped():
                return self._cancel()
            case Released():
                return self._lease.settle(lambda: self._store.release(self._job.id, self._job.attempt))
            case Lost():
                return None

    def _succeed(self, result: dict) -> Job:
        try:
            files = self._workspace.publish(self._resources.artifacts)
            return self._lease.settle(lambda: self._store.succeed(self._job.id, self._job.attempt, result, files))
        except NotPublished as error:
            log.exception("job %s: its files cannot be stored", self._job.id)
            # The checkpoint remains, so that a second attempt is short.
            return self._fail(Cause("internal", f"The job's files cannot be stored: {error}", retry=True))
        except (InvalidName, NotStorable) as error:
            return self._fail(Cause("internal", f"The job's result cannot be stored: {error}"))

    def _fail(self, cause: Cause) -> Job:
        failure = Failure(cause.kind, cause.message, cause.advice, self._printed.text())
        again = cause.retry and self._job.attempts_left > 0
        files = [] if again else self._files_if_possible()
        return self._lease.settle(
            lambda: self._store.fail(self._job.id, self._job.attempt, failure, retry=cause.retry, artifacts=files)
        )

    def _cancel(self) -> Job:
        files = self._files_if_possible()
        try:
            return self._lease.settle(lambda: self._store.finish_cancelled(self._job.id, self._job.attempt, files))
        except CancelNotRequested as error:
            return self._fail(Cause("internal", str(error)))

    def _files_if_possible(self) -> list[Artifact]:
        try:
            return self._workspace.publish(self._resources.artifacts)
        except (InvalidName, NotPublished):
            log.exception("job %s: its files cannot be stored", self._job.id)
            return []

    def _delete_files(self) -> None:
        # A commit whose reply was lost looks superseded when it is repeated; its files are the job's all the same.
        try:
            if self._store.get(self._job.id).attempt != self._job.attempt:
                self._resources.artifacts.delete_attempt(self._job.id, self._job.attempt)
        except (JobNotFound, OSError, *UNAVAILABLE) as error:
            log.warning("job %s: files of attempt %d are not removed: %s", self._job.id, self._job.attempt, error)


@dataclass(frozen=True)
class Succeeded:
    """With a result."""

    result: dict[str, Any]

    def __str__(self) -> str:
        return "succeeded"


@dataclass(frozen=True)
class Failed:
    """For a cause."""

    cause: Cause

    def __str__(self) -> str:
        return f"failed, {self.cause.kind}: {self.cause.message}"


@dataclass(frozen=True)
class Stopped:
    """The job was cancelled."""

    def __str__(self) -> str:
        return "cancelled"


@dataclass(frozen=True)
class Released:
    """The worker shuts down; the job is queued again."""

    def __str__(self) -> str:
        return "released"


@dataclass(frozen=True)
class Lost:
    """Another attempt may hold the job by now, so nothing is written."""

    reason: str

    def __str__(self) -> str:
        return f"lost: {self.reason}"


AttemptOutcome = Succeeded | Failed | Stopped | Released | Lost
