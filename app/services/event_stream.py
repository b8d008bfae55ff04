"""Server-sent events: a job's history from any point on, then live, up to its terminal event."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import anyio
from starlette.concurrency import run_in_threadpool

from collegium.app.services.services import Services
from collegium.app.services.views import event_view
from collegium.jobs.record import Event, Job

_RETRY_MS = 2000
_BATCH = 500


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
