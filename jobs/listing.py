"""Jobs are listed, newest first."""

from __future__ import annotations

from sqlalchemy import null, select

from jobs.database import Database
from jobs.paging import fetch_page
from jobs.record import Job, Kind, Page
from jobs.schema import jobs
from jobs.states import Status
from jobs.transitions import JOB_COLUMNS, job_of

WITHOUT_RESULT = tuple(null().label("result") if column.name == "result" else column for column in JOB_COLUMNS)


class Listing:
    """Part of ``JobStore``: pages of jobs."""

    database: Database

    def list(
        self,
        *,
        kind: Kind | None = None,
        status: Status | None = None,
        parent_id: str | None = None,
        top_level: bool = False,
        limit: int = 50,
        cursor: str | None = None,
        results: bool = True,
    ) -> Page[Job]:
        """One page of the jobs that match, newest first.

        ``parent_id`` asks for one job's children, ``top_level`` for jobs that are nobody's. ``results=False`` leaves
        the results out, which can be large. Raises InvalidCursor, and ValueError for a limit outside 1 … 1000.
        """
        query = select(*(JOB_COLUMNS if results else WITHOUT_RESULT))
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        if status is not None:
            query = query.where(jobs.c.status == status)
        if parent_id is not None:
            query = query.where(jobs.c.parent_id == parent_id)
        if top_level:
            query = query.where(jobs.c.parent_id.is_(None))
        with self.database.read() as connection:
            rows, next_cursor = fetch_page(connection, query, jobs.c.created_at, jobs.c.id, limit, cursor)
        return Page(tuple(job_of(row) for row in rows), next_cursor)
