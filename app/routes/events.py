"""A job's events, as a stream that resumes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from collegium.app.http.openapi import problems
from collegium.app.http.problems import Problem
from collegium.app.services.event_stream import job_events, resume_point
from collegium.app.services.lookup import JobId, require_job
from collegium.app.services.services import Services, ServicesDep
from collegium.jobs.record import EVENT_TYPES, Job

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
