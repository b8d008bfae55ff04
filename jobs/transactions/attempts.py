"""An attempt takes a job, keeps its lease, and ends it. Each method is one transaction, fenced by the attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from collegium.jobs.database.engine import Database, microseconds, now
from collegium.jobs.database.json_text import encode
from collegium.jobs.database.schema import artifacts as artifact_rows
from collegium.jobs.database.schema import jobs
from collegium.jobs.errors import CancelNotRequested
from collegium.jobs.record import MESSAGE_LIMIT, Artifact, Failure, Heartbeat, Job, Queue
from collegium.jobs.states import CLAIM, FAIL, FINISH, GIVE_BACK, KEEP, STOP, Transition
from collegium.jobs.transactions.cancellation import drop_queued_children
from collegium.jobs.transactions.transitions import LEASE_EXPIRIES, change, count, fenced, hold, move


class Attempts:
    """Part of ``JobStore``: what a worker does with a job."""

    database: Database

    def claim(self, job_id: str, worker: str, lease_s: float) -> Job | None:
        """Take this job if it is queued; None if it is not, or does not exist."""
        with self.database.write() as connection:
            return _claim(connection, job_id, worker, microseconds(lease_s))

    def claim_next(self, queue: Queue, worker: str, lease_s: float) -> Job | None:
        """Take the oldest job that waits in the queue; None if none does."""
        return self._claim_first(select(jobs.c.id).where(jobs.c.queue == queue), worker, lease_s)

    def claim_child(self, parent_id: str, worker: str, lease_s: float) -> Job | None:
        """Take the oldest queued child of a job; None if none waits."""
        return self._claim_first(select(jobs.c.id).where(jobs.c.parent_id == parent_id), worker, lease_s)

    def _claim_first(self, candidates: Select[Any], worker: str, lease_s: float) -> Job | None:
        first = candidates.where(jobs.c.status == "queued").order_by(jobs.c.created_at, jobs.c.id).limit(1)
        with self.database.write() as connection:
            job_id = connection.scalars(first.with_for_update(skip_locked=True)).one_or_none()
            return None if job_id is None else _claim(connection, job_id, worker, microseconds(lease_s))

    def heartbeat(self, job_id: str, attempt: int, lease_s: float) -> Heartbeat:
        """Renew the lease from now on; returns whether to stop. Raises Superseded, JobNotFound.

        A lease that has run out but was not reaped is renewed like any other.
        """
        with fenced(self.database) as connection:
            lease = now() + microseconds(lease_s)
            row = change(connection, job_id, attempt, jobs.c.cancel_requested, lease_until=lease)
            return Heartbeat(cancel_requested=row.cancel_requested)

    def succeed(self, job_id: str, attempt: int, result: Mapping[str, Any], artifacts: Sequence[Artifact] = ()) -> Job:
        """Publish the result and its files; children that still wait are dropped. Holds even after a request to
        cancel that the attempt did not see in time. Raises Superseded, JobNotFound, NotStorable.
        """
        text = encode(dict(result))
        with fenced(self.database) as connection:
            job = hold(connection, job_id, attempt)
            transition = KEEP if job.cancel_requested else FINISH
            return _end(connection, job, transition, "succeeded", artifacts, result=text, fraction=1.0)

    def fail(
        self,
        job_id: str,
        attempt: int,
        failure: Failure,
        *,
        retry: bool,
        artifacts: Sequence[Artifact] = (),
    ) -> Job:
        """Queue the job again if ``retry`` and an attempt is left, otherwise end it as failed.

        Files, such as the last good checkpoint, are published when it ends. A job that is being cancelled ends as
        cancelled, since most often the cancellation is what failed it; the failure is kept in the event.
        Raises Superseded, JobNotFound.
        """
        outcome = f"failed.{failure.kind}"
        detail = {"failure": failure.as_dict()}
        with fenced(self.database) as connection:
            job = hold(connection, job_id, attempt)
            if job.cancel_requested:
                return _end(connection, job, STOP, outcome, artifacts, detail)
            if retry and job.attempts_left:
                message = f"attempt {attempt} failed ({failure.message}); waiting for another"[:MESSAGE_LIMIT]
                return _give_back(connection, job, outcome, detail, message=message)
            text = encode(failure.as_dict())
            return _end(connection, job, FAIL, outcome, artifacts, detail, failure=text)

    def finish_cancelled(self, job_id: str, attempt: int, artifacts: Sequence[Artifact] = ()) -> Job:
        """End a job as cancelled, with the files it leaves.

        Raises Superseded, JobNotFound, CancelNotRequested.
        """
        with fenced(self.database) as connection:
            job = hold(connection, job_id, attempt)
            if not job.cancel_requested:
                raise CancelNotRequested(job_id)
            return _end(connection, job, STOP, "cancelled", artifacts)

    def release(self, job_id: str, attempt: int) -> Job:
        """Queue the job again because its worker shuts down; the attempt does not count towards the limit, though
        its number stays used, so that it is fenced. A job that is being cancelled ends as cancelled.
        Raises Superseded, JobNotFound.
        """
        with fenced(self.database) as connection:
            job = hold(connection, job_id, attempt)
            if job.cancel_requested:
                return _end(connection, job, STOP, "cancelled", ())
            detail = {"reason": "the worker shut down"}
            return _give_back(connection, job, "released", detail, released=jobs.c.released + 1)


def _claim(connection: Connection, job_id: str, worker: str, lease_us: int) -> Job | None:
    return move(
        connection,
        job_id,
        CLAIM,
        detail={"worker": worker},
        attempt=jobs.c.attempt + 1,
        worker=worker,
        lease_until=now() + lease_us,
        started_at=func.coalesce(jobs.c.started_at, now()),
    )


def lose(connection: Connection, job: Job) -> Job:
    """End the attempt of a locked job whose lease has run out."""
    lost = Failure(
        "worker_lost",
        f"the worker {job.worker} stopped renewing its lease during attempt {job.attempt}",
        "Look for a crash or a lack of memory on that machine; then submit the job again.",
    )
    detail = {"reason": "the lease ran out", "worker": job.worker}
    if job.cancel_requested:
        return _end(connection, job, STOP, "lost", (), detail, also=[LEASE_EXPIRIES])
    if job.attempts_left:
        return _give_back(connection, job, "lost", detail, also=[LEASE_EXPIRIES], message=lost.message)
    detail |= {"failure": lost.as_dict()}
    return _end(connection, job, FAIL, "lost", (), detail, also=[LEASE_EXPIRIES], failure=encode(lost.as_dict()))


def _end(
    connection: Connection,
    job: Job,
    transition: Transition,
    outcome: str,
    artifacts: Sequence[Artifact],
    detail: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
    **values: Any,
) -> Job:
    """Everything that an attempt's last write does, for a job that ``hold`` has locked."""
    _publish(connection, job.id, artifacts)
    ended = _moved(move(connection, job.id, transition, detail=detail, finished_at=now(), **values))
    drop_queued_children(connection, job.id)
    count(connection, f"attempts.{outcome}", *also)
    return ended


def _give_back(
    connection: Connection,
    job: Job,
    outcome: str,
    detail: Mapping[str, Any],
    also: Sequence[str] = (),
    **values: Any,
) -> Job:
    queued = _moved(move(connection, job.id, GIVE_BACK, detail=detail, **values))
    count(connection, f"attempts.{outcome}", *also)
    return queued


def _moved(job: Job | None) -> Job:
    if job is None:
        raise AssertionError("a locked job has changed its status")
    return job


def _publish(connection: Connection, job_id: str, artifacts: Sequence[Artifact]) -> None:
    if artifacts:
        rows = [{"job_id": job_id, **vars(artifact)} for artifact in artifacts]
        connection.execute(insert(artifact_rows), rows)
