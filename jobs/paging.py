"""Pages, newest first, by keyset: rows that are added meanwhile neither shift a page nor show up twice."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from sqlalchemy import Column, Connection, Row, Select, literal, tuple_

from collegium.jobs.database import EPOCH, MICROSECOND, Instant
from collegium.jobs.errors import InvalidCursor

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
