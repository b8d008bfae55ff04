"""Creation of jobs: the row, its idempotency record and its first event in one transaction."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from collegium.jobs.database.engine import Database, now
from collegium.jobs.database.json_text import Encoded, digest, encode
from collegium.jobs.database.schema import events, idempotency, jobs
from collegium.jobs.errors import IdempotencyConflict, JobNotFound, ParentClosed
from collegium.jobs.record import KINDS, QUEUES, Child, Job, Kind, Queue
from collegium.jobs.states import ACTIVE
from collegium.jobs.transactions.reading import latest_success
from collegium.jobs.transactions.transitions import JOB_COLUMNS, fenced, hold, job_of

KEY_LIMIT = 255


def new_id() -> str:
    """Eighty random bits in sixteen letters and digits, easy to paste and to read out."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


class Creation:
    """Part of ``JobStore``: create a job, or the children of one."""

    database: Database

    def create(
        self,
        kind: Kind,
        spec: Mapping[str, Any] | Encoded,
        *,
        queue: Queue,
        fingerprint: str | None = None,
        idempotency_key: str | None = None,
        parent_id: str | None = None,
        child_key: str | None = None,
        max_attempts: int = 3,
        reuse_result: bool = False,
    ) -> tuple[Job, bool]:
        """A queued job, and whether it is new; ``spec`` may be encoded already.

        It is not new when the idempotency key made it before from the same kind, queue and spec, or when the parent
        has a child of this key. With ``reuse_result`` it is not new either when a job of the same fingerprint has
        succeeded; the idempotency key then belongs to that one. Raises IdempotencyConflict, ParentClosed, JobNotFound
        (the parent), NotStorable, and ValueError for arguments that contradict each other.
        """
        if (parent_id is None) != (child_key is None):
            raise ValueError("parent_id and child_key belong together")
        if parent_id is not None and idempotency_key is not None:
            raise ValueError("a child is made repeatable by its key, not by an idempotency key")
        if idempotency_key is not None:
            _check_key("idempotency key", idempotency_key)
        row = _row(kind, spec, queue, fingerprint, parent_id, child_key, max_attempts)
        request = digest([kind, queue, _plain(spec)]) if idempotency_key is not None else ""
        try:
            return self._create_once(row, idempotency_key, request, reuse_result)
        except IntegrityError:
            # Another transaction committed the same key between the read and the insert: now it is visible.
            return self._create_once(row, idempotency_key, request, reuse_result)

    def _create_once(self, row: dict[str, Any], key: str | None, request: str, reuse: bool) -> tuple[Job, bool]:
        with self.database.write() as connection:
            if key is not None:
                existing = _find_request(connection, key, request)
                if existing is not None:
                    return existing, False
            if row["parent_id"] is not None:
                existing = _find_child(connection, row["parent_id"], row["child_key"])
                if existing is not None:
                    return existing, False
            reused = latest_success(connection, row["fingerprint"]) if reuse else None
            if reused is None:
                _insert(connection, [row])
            job = reused or _get(connection, row["id"])
            if key is not None:
                connection.execute(
                    insert(idempotency).values(key=key, request=request, job_id=job.id, created_at=now())
                )
            return job, reused is None

    def fan_out(self, parent_id: str, attempt: int, children: Sequence[Child]) -> list[Job]:
        """The children, in the order given: existing ones unchanged, the others created in one transaction.

        A parent that is run again finds what its earlier attempts have left. Raises Superseded, JobNotFound,
        ParentClosed (it is being cancelled), NotStorable; ValueError for two children of one key.
        """
        rows = {
            child.key: _row(
                child.kind, child.spec, child.queue, child.fingerprint, parent_id, child.key, child.max_attempts
            )
            for child in children
        }
        if len(rows) < len(children):
            raise ValueError("two children share a key")
        with fenced(self.database) as connection:
            parent = hold(connection, parent_id, attempt)
            if parent.cancel_requested:
                raise ParentClosed(parent_id, parent.status)
            existing = _children(connection, parent_id)
            fresh = [row for key, row in rows.items() if key not in existing]
            if fresh:
                _insert(connection, fresh)
                existing = _children(connection, parent_id)
            return [existing[child.key] for child in children]


def _plain(spec: Mapping[str, Any] | Encoded) -> dict[str, Any] | Encoded:
    return spec if isinstance(spec, Encoded) else dict(spec)


def _row(
    kind: Kind,
    spec: Mapping[str, Any] | Encoded,
    queue: Queue,
    fingerprint: str | None,
    parent_id: str | None,
    child_key: str | None,
    max_attempts: int,
) -> dict[str, Any]:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of job; one of {', '.join(KINDS)}")
    if queue not in QUEUES:
        raise ValueError(f"{queue!r} is no queue; one of {', '.join(QUEUES)}")
    if max_attempts < 1:
        raise ValueError("a job has at least one attempt")
    if child_key is not None:
        _check_key("child's key", child_key)
    return {
        "id": new_id(),
        "kind": kind,
        "status": "queued",
        "queue": queue,
        "spec": encode(_plain(spec)),
        "fingerprint": fingerprint,
        "fraction": 0.0,
        "message": "",
        "attempt": 0,
        "released": 0,
        "max_attempts": max_attempts,
        "parent_id": parent_id,
        "child_key": child_key,
        "cancel_requested": False,
        "revision": 1,
        "last_seq": 1,
    }


def _check_key(what: str, key: str) -> None:
    if not 1 <= len(key) <= KEY_LIMIT:
        raise ValueError(f"the {what} has between 1 and {KEY_LIMIT} characters")


def _insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    born = now()
    connection.execute(
        insert(jobs).values(created_at=born, updated_at=born, queued_at=born, hinted_at=born), list(rows)
    )
    first = {"seq": 1, "type": "state", "data": encode({"status": "queued", "attempt": 0})}
    connection.execute(insert(events).values(at=now()), [{"job_id": row["id"], **first} for row in rows])


def _get(connection: Connection, job_id: str) -> Job:
    return job_of(connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).one())


def _find_request(connection: Connection, key: str, request: str) -> Job | None:
    row = connection.execute(select(idempotency).where(idempotency.c.key == key)).one_or_none()
    if row is None:
        return None
    if row.request != request:
        raise IdempotencyConflict(key, row.job_id)
    return _get(connection, row.job_id)


def _find_child(connection: Connection, parent_id: str, child_key: str) -> Job | None:
    """The child, if there is one already; the parent is locked, so there will be no second."""
    query = select(jobs.c.status).where(jobs.c.id == parent_id).with_for_update()
    status = connection.scalars(query).one_or_none()
    if status is None:
        raise JobNotFound(parent_id)
    query = select(*JOB_COLUMNS).where(jobs.c.parent_id == parent_id, jobs.c.child_key == child_key)
    row = connection.execute(query).one_or_none()
    if row is None and (status not in ACTIVE or status == "cancelling"):
        raise ParentClosed(parent_id, status)
    return None if row is None else job_of(row)


def _children(connection: Connection, parent_id: str) -> dict[str, Job]:
    rows = connection.execute(select(*JOB_COLUMNS).where(jobs.c.parent_id == parent_id))
    return {str(job.child_key): job for job in map(job_of, rows)}
