"""Single jobs, their children and artifacts."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from collegium.jobs.database.engine import Database
from collegium.jobs.database.schema import artifacts as artifact_rows
from collegium.jobs.database.schema import jobs
from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import Artifact, Job
from collegium.jobs.states import Status
from collegium.jobs.transactions.transitions import JOB_COLUMNS, job_of

ARTIFACT_COLUMNS = tuple(artifact_rows.c[name] for name in Artifact.__dataclass_fields__)


def latest_success(connection: Connection, fingerprint: str | None) -> Job | None:
    """The latest job that has succeeded with this fingerprint; None without a fingerprint."""
    query = select(*JOB_COLUMNS).where(jobs.c.fingerprint == fingerprint, jobs.c.status == "succeeded")
    query = query.order_by(jobs.c.finished_at.desc(), jobs.c.id).limit(1)
    row = None if fingerprint is None else connection.execute(query).one_or_none()
    return None if row is None else job_of(row)


class Reading:
    """Part of ``JobStore``: single jobs, children, artifacts."""

    database: Database

    def ping(self) -> None:
        """One round trip to the database. Raises one of ``collegium.jobs.database.engine.UNAVAILABLE``."""
        self.database.ping()

    def get(self, job_id: str) -> Job:
        """The job as it stands. Raises JobNotFound."""
        with self.database.read() as connection:
            row = connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).one_or_none()
        if row is None:
            raise JobNotFound(job_id)
        return job_of(row)

    def children(self, parent_id: str) -> list[Job]:
        """All of a job's children, in the order of their creation."""
        query = select(*JOB_COLUMNS).where(jobs.c.parent_id == parent_id)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(jobs.c.created_at, jobs.c.child_key)).all()
        return [job_of(row) for row in rows]

    def child_counts(self, parent_id: str) -> dict[Status, int]:
        """How many of a job's children are in which state; states of none are left out."""
        query = select(jobs.c.status, func.count()).where(jobs.c.parent_id == parent_id)
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(jobs.c.status))}

    def artifacts(self, job_id: str) -> list[Artifact]:
        """The files that the job has published, by name. Raises JobNotFound."""
        query = select(*ARTIFACT_COLUMNS).where(artifact_rows.c.job_id == job_id)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(artifact_rows.c.name)).all()
            if not rows and connection.scalar(select(jobs.c.id).where(jobs.c.id == job_id)) is None:
                raise JobNotFound(job_id)
        return [Artifact(*row) for row in rows]

    def artifact(self, job_id: str, name: str) -> Artifact | None:
        """One of them, or None."""
        query = select(*ARTIFACT_COLUMNS).where(artifact_rows.c.job_id == job_id, artifact_rows.c.name == name)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Artifact(*row)
