"""Recovery of jobs whose worker died or whose message was lost, and metrics of the queues."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from collegium.jobs.database.engine import Database, microseconds, now
from collegium.jobs.database.schema import jobs
from collegium.jobs.record import Hint, Job, Queue, QueueMetrics, Reaped
from collegium.jobs.states import ACTIVE, Status
from collegium.jobs.transactions.attempts import lose
from collegium.jobs.transactions.transitions import JOB_COLUMNS, job_of, read_counters


class Reaping:
    """Part of ``JobStore``: expired leases, lost messages, the heads of queues."""

    database: Database

    def reap(self, limit: int = 100) -> Reaped:
        """End attempts whose lease has run out: their jobs are queued again while attempts are left, fail as
        ``worker_lost`` afterwards, and are cancelled if that was requested. One transaction per job; any number of
        reapers may run at once.
        """
        query = select(jobs.c.id).where(jobs.c.lease_until < now()).order_by(jobs.c.lease_until).limit(limit)
        with self.database.read() as connection:
            overdue = list(connection.scalars(query))
        ended = [job for job_id in overdue if (job := self._reap_one(job_id)) is not None]
        return Reaped(
            expired=tuple(Hint(job.id, job.queue) for job in ended if job.status == "queued"),
            failed=tuple(job.id for job in ended if job.status == "failed"),
            cancelled=tuple(job.id for job in ended if job.status == "cancelled"),
        )

    def _reap_one(self, job_id: str) -> Job | None:
        query = select(*JOB_COLUMNS).where(jobs.c.id == job_id, jobs.c.lease_until < now())
        with self.database.write() as connection:
            row = connection.execute(query.with_for_update()).one_or_none()
            return None if row is None else lose(connection, job_of(row))

    def publishable(self, older_than_s: float, limit: int = 100) -> list[Hint]:
        """Queued jobs of which no message was sent for this long, longest first. They count as sent from now on, so
        that concurrent callers do not both send.
        """
        query = select(jobs.c.id, jobs.c.queue).where(jobs.c.hinted_at < now() - microseconds(older_than_s))
        query = query.order_by(jobs.c.hinted_at, jobs.c.id).limit(limit).with_for_update(skip_locked=True)
        with self.database.write() as connection:
            hints = [Hint(row.id, row.queue) for row in connection.execute(query)]
            if hints:
                ids = [hint.id for hint in hints]
                connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(hinted_at=now()))
        return hints

    def next_queued(self, queue: Queue) -> str | None:
        """The job that has waited longest in a queue. It may be taken before the caller claims it."""
        query = select(jobs.c.id).where(jobs.c.queue == queue, jobs.c.status == "queued")
        with self.database.read() as connection:
            return connection.scalars(query.order_by(jobs.c.created_at, jobs.c.id).limit(1)).one_or_none()

    def metrics(self) -> QueueMetrics:
        """Queue depth, ages and counters, from one transaction."""
        with self.database.read() as connection:
            return QueueMetrics(_depth(connection), _oldest(connection), read_counters(connection))


def _depth(connection: Connection) -> dict[tuple[Queue, Status], int]:
    query = select(jobs.c.queue, jobs.c.status, func.count()).where(jobs.c.status.in_(ACTIVE))
    rows = connection.execute(query.group_by(jobs.c.queue, jobs.c.status))
    return {(queue, status): many for queue, status, many in rows}


def _oldest(connection: Connection) -> dict[Queue, float]:
    query = select(jobs.c.queue, now() - func.min(jobs.c.queued_at, type_=now.type))
    rows = connection.execute(query.where(jobs.c.status == "queued").group_by(jobs.c.queue))
    return {queue: max(0, age) / 1e6 for queue, age in rows}
