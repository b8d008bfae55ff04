"""Cancellation, which extends to all descendants of a job.

Locks are taken from the top down, and within a level in the order of ids, by every transaction that takes several;
so no two of them wait for each other. A level is read after its parents are locked: a parent that was about to add a
child has either done so, and the child is read, or is cancelled first.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from collegium.jobs.database.engine import Database, now
from collegium.jobs.database.schema import jobs
from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import Job
from collegium.jobs.states import CANCEL, DROP
from collegium.jobs.transactions.transitions import JOB_COLUMNS, job_of, move


class Cancellation:
    """Part of ``JobStore``: cancellation by a user."""

    database: Database

    def request_cancel(self, job_id: str) -> Job:
        """Cancel what is queued and flag what is running, the job and everything below it; a job that has ended, or
        is being cancelled already, stays as it is. Raises JobNotFound.
        """
        with self.database.write() as connection:
            cancel_tree(connection, [job_id], reason="cancelled by request")
            row = connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).one_or_none()
        if row is None:
            raise JobNotFound(job_id)
        return job_of(row)


def cancel_tree(connection: Connection, roots: Sequence[str], reason: str) -> None:
    """Cancel these jobs, where they are not over, and all below them."""
    level = list(roots)
    while level:
        query = select(jobs.c.id, jobs.c.status).where(jobs.c.id.in_(level))
        for row in connection.execute(query.order_by(jobs.c.id).with_for_update()).all():
            if row.status == "queued":
                move(
                    connection,
                    row.id,
                    DROP,
                    detail={"reason": reason},
                    cancel_requested=True,
                    finished_at=now(),
                )
            elif row.status == "running":
                move(connection, row.id, CANCEL, detail={"reason": reason}, cancel_requested=True)
        level = list(connection.scalars(select(jobs.c.id).where(jobs.c.parent_id.in_(level))))


def drop_queued_children(connection: Connection, parent_id: str) -> None:
    """The parent has ended: queued children have no reader. Those that run are left to finish."""
    query = select(jobs.c.id).where(jobs.c.parent_id == parent_id, jobs.c.status == "queued")
    waiting = list(connection.scalars(query.order_by(jobs.c.id).with_for_update()))
    if waiting:
        cancel_tree(connection, waiting, reason="the parent has ended")
