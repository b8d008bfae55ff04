"""A job's history, written by the attempt that holds it and read by its followers.

To follow a job: read ``events(id, after)``, go on from the last ``seq``, sleep when there is nothing, stop at an event
that is ``terminal``. None is missed and none comes twice, because numbers become visible in order: a writer holds
the job's row until it commits. Nothing is ever written behind a terminal event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from collegium.jobs.database.engine import Database, now
from collegium.jobs.database.json_text import decode, encode
from collegium.jobs.database.schema import events as event_rows
from collegium.jobs.database.schema import jobs
from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import MESSAGE_LIMIT, Event, check_writable
from collegium.jobs.transactions.transitions import change, fenced, insert_events

MAX_SEQ = 2**63 - 1
EVENT_COLUMNS = tuple(event_rows.c[name] for name in ("seq", "type", "data", "at"))


class History:
    """Part of ``JobStore``: progress and events."""

    database: Database

    def report(self, job_id: str, attempt: int, fraction: float, message: str) -> int:
        """Set the progress, between 0 and 1, and record an event; its number.

        Raises Superseded, JobNotFound, ValueError for a fraction that is not finite.
        """
        if not math.isfinite(fraction):
            raise ValueError(f"progress is a fraction, not {fraction}")
        progress = {"fraction": min(1.0, max(0.0, float(fraction))), "message": message[:MESSAGE_LIMIT]}
        data = encode(progress)
        with fenced(self.database) as connection:
            seq = change(
                connection,
                job_id,
                attempt,
                jobs.c.last_seq,
                **progress,
                updated_at=now(),
                revision=jobs.c.revision + 1,
                last_seq=jobs.c.last_seq + 1,
            ).last_seq
            insert_events(connection, job_id, seq, [("progress", data)])
            return seq

    def append_event(self, job_id: str, attempt: int, type: str, data: Mapping[str, Any]) -> int:
        """Write one event of a ``WRITABLE`` type; its number. Raises as ``append_events``."""
        return self.append_events(job_id, attempt, [(type, data)])

    def append_events(self, job_id: str, attempt: int, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Write several in one transaction; the number of the last.

        Raises Superseded, JobNotFound, NotStorable, ValueError for no entries or another type.
        """
        if not entries:
            raise ValueError("no events to write")
        for type, _ in entries:
            check_writable(type)
        texts = [(type, encode(dict(data))) for type, data in entries]
        with fenced(self.database) as connection:
            last_seq = jobs.c.last_seq + len(texts)
            seq = change(connection, job_id, attempt, jobs.c.last_seq, last_seq=last_seq).last_seq
            insert_events(connection, job_id, seq, texts)
            return seq

    def events(self, job_id: str, after: int = 0, limit: int = 500, types: Sequence[str] | None = None) -> list[Event]:
        """Up to ``limit`` events with a greater number than ``after``, in order. Raises JobNotFound."""
        query = select(*EVENT_COLUMNS).where(
            event_rows.c.job_id == job_id, event_rows.c.seq > min(max(after, 0), MAX_SEQ)
        )
        if types is not None:
            query = query.where(event_rows.c.type.in_(types))
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(event_rows.c.seq).limit(limit)).all()
            if not rows and connection.scalar(select(jobs.c.id).where(jobs.c.id == job_id)) is None:
                raise JobNotFound(job_id)
        return [Event(row.seq, row.type, decode(row.data), row.at) for row in rows]
