"""Jobs are listed, newest first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, func, null, select

from collegium.jobs.database import Database
from collegium.jobs.paging import fetch_page
from collegium.jobs.record import Job, Kind, Page
from collegium.jobs.schema import jobs
from collegium.jobs.states import Status
from collegium.jobs.transitions import JOB_COLUMNS, job_of

#: Characters of the longest specification that a list shows; a Gram matrix can have millions.
SPEC_LIMIT = 1 << 16


def _brief(column: ColumnElement[Any]) -> ColumnElement[Any]:
    match column.key:
        case "result":
            return null().label("result")
        case "spec":
            return case((func.length(column) <= SPEC_LIMIT, column), else_="{}").label("spec")
        case _:
            return column


BRIEF = tuple(map(_brief, JOB_COLUMNS))


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
        out what can be large: results, and specifications of more than ``SPEC_LIMIT`` characters. Raises InvalidCursor,
        and ValueError for a limit outside 1 … 1000.
        """
        query = select(*(JOB_COLUMNS if results else BRIEF))
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
