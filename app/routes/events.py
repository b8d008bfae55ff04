"""A job's events as a stream: its history from any point on, then live, up to its terminal event."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from collegium.app.http.openapi import problems
from collegium.app.http.problems import Problem
from collegium.app.services.services import JobId, Services, ServicesDep, require_job
from collegium.app.services.views import event_view
from collegium.jobs.record import EVENT_TYPES, Event, Job

router = APIRouter(prefix="/jobs", tags=["jobs"])

_TYPES = "; ".join(f"`{type.name}` ({type.data})" for type in EVENT_TYPES.values())
_EVENT = {
    "description": "One event of the stream.",
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "event": {"enum": list(EVENT_TYPES)},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
_RETRY_MS = 2000
_BATCH = 500
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": f"Server-sent events up to the terminal `state`: {_TYPES}.",
            "content": {"text/event-stream": {"schema": _EVENT}},
        },
        **problems("not-found", "invalid-request", "unavailable"),
    },
    summary="Stream a job's events",
)
async def stream_events(
    services: ServicesDep,
    job_id: JobId,
    after: Annotated[int, Query(ge=0, le=2**53, description="events after this one only")] = 0,
    last_event_id: Annotated[
        int | None,
        Header(alias="Last-Event-ID", ge=0, le=2**53, description="like `after`, over which it takes precedence"),
    ] = None,
) -> StreamingResponse:
    job = await run_in_threadpool(require_job, services, job_id)
    if services.stopping.is_set() or not services.streams.acquire(blocking=False):
        raise Problem("unavailable", "too many event streams are open", headers={"Retry-After": "5"})
    start = resume_point(job, after if last_event_id is None else last_event_id)
    return _CountedStream(services, job, start)


class _CountedStream(StreamingResponse):
    """A stream that releases its slot however it ends, even where it never began."""

    def __init__(self, services: Services, job: Job, after: int) -> None:
        super().__init__(job_events(services, job, after), media_type="text/event-stream", headers=_HEADERS)
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._services.metrics.streams.inc()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._services.metrics.streams.dec()
            self._services.streams.release()


def encoded(event: Event) -> bytes:
    """One event in the format of the HTML standard, section 9.2; JSON has no line breaks to escape."""
    data = json.dumps(event_view(event), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode("utf-8", "replace")


def resume_point(job: Job, last_event_id: int) -> int:
    """The event after which to go on.

    A stream always ends with the terminal event, which is repeated where it was received before; an id beyond the last
    event resumes at the last.
    """
    return min(last_event_id, job.last_seq - 1 if job.terminal else job.last_seq)


async def job_events(services: Services, job: Job, after: int) -> AsyncIterator[bytes]:
    """The stream's chunks: events after ``after``, and comments that keep idle connections alive."""
    settings = services.settings
    yield f"retry: {_RETRY_MS}\n\n".encode()
    last_sent = time.monotonic()
    while not services.stopping.is_set():
        events = await run_in_threadpool(services.store.events, job.id, after, _BATCH)
        if events:
            yield b"".join(map(encoded, events))
            if events[-1].terminal:
                return
            after = events[-1].seq
            last_sent = time.monotonic()
        elif time.monotonic() - last_sent >= settings.keep_alive_s:
            yield b": keep-alive\n\n"
            last_sent = time.monotonic()
        if len(events) < _BATCH:
            await anyio.sleep(settings.event_poll_s)
