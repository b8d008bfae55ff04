"""Lists of jobs, newest first."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, case, func, literal, null, select, tuple_

from collegium.jobs.database.engine import EPOCH, MICROSECOND, Database, Instant
from collegium.jobs.database.schema import jobs
from collegium.jobs.errors import InvalidCursor
from collegium.jobs.record import Job, Kind, Page
from collegium.jobs.states import Status
from collegium.jobs.transactions.transitions import JOB_COLUMNS, job_of

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

        ``parent_id`` asks for one job's children, ``top_level`` for jobs without a parent. ``results=False`` leaves
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


LIMIT = 1000
LATEST = 2**63 - 1


def encode_cursor(row: Row[Any]) -> str:
    """Where a page ended, opaque to the reader."""
    position = [(row.created_at - EPOCH) // MICROSECOND, row.id]
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[int, str]:
    """The position of a cursor. Raises InvalidCursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        created, row_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise InvalidCursor("not a cursor of this service") from None
    if type(created) is not int or type(row_id) is not str or not 0 <= created <= LATEST:
        raise InvalidCursor("not a cursor of this service")
    return created, row_id


def fetch_page(
    connection: Connection,
    query: Select[Any],
    created_at: Column[Any],
    id: Column[str],
    limit: int,
    cursor: str | None,
) -> tuple[list[Row[Any]], str | None]:
    """Up to ``limit`` rows behind the cursor, and the next cursor. Raises InvalidCursor, ValueError."""
    if not 1 <= limit <= LIMIT:
        raise ValueError(f"a page has between 1 and {LIMIT} rows")
    if cursor is not None:
        created, row_id = decode_cursor(cursor)
        position = tuple_(literal(created, Instant), literal(row_id, id.type))
        query = query.where(tuple_(created_at, id) < position)
    query = query.order_by(created_at.desc(), id.desc()).limit(limit + 1)
    rows = list(connection.execute(query))
    return rows[:limit], encode_cursor(rows[limit - 1]) if len(rows) > limit else None
