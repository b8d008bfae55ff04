"""What a request may hold: known query parameters, and a bounded body of the right media type that is a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from fastapi.dependencies.models import Dependant
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from collegium.app.http.document import Model, parse_model
from collegium.app.http.problems import Problem

#: Bytes from which on a body is parsed in a thread, so that other requests do not wait for a Gram matrix.
_SLOW = 1 << 16


def check_media_type(request: Request, *accepted: str) -> str:
    """The request's media type, if it is one of ``accepted`` and is not encoded. Raises a 415 problem."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem("unsupported-media-type", f"send the body without Content-Encoding, not as {encoding[:80]!r}")
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in accepted:
        raise Problem(
            "unsupported-media-type",
            f"send the body as {' or '.join(accepted)}, not as {media_type[:80] or 'nothing'!r}",
            headers={"Accept": ", ".join(accepted)},
        )
    return media_type


def declared_length(request: Request) -> int | None:
    """``Content-Length``, if given. Raises a 400 problem where it is not a number."""
    header = request.headers.get("content-length")
    if header is None:
        return None
    if not header.isascii() or not header.isdigit() or len(header) > 20:
        raise Problem("malformed-request", "Content-Length is not a number")
    return int(header)


async def bounded_stream(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body's chunks, at most ``limit`` bytes of them. Raises a 413 problem."""
    too_large = Problem("too-large", f"the body is larger than {limit} bytes", headers={"Connection": "close"})
    if (declared_length(request) or 0) > limit:
        raise too_large
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise too_large
            yield chunk
    except ClientDisconnect as error:
        raise Problem("malformed-request", "the body ended early") from error


async def read_model(request: Request, model: type[Model], limit: int, turn: asyncio.Semaphore) -> Model:
    """The body as a ``model``; large ones are parsed by ``turn``. Raises 400, 413, 415 and 422 problems."""
    check_media_type(request, "application/json")
    raw = bytearray()
    async for chunk in bounded_stream(request, limit):
        raw += chunk
    if len(raw) < _SLOW:
        return parse_model(bytes(raw), model)
    async with turn:
        return await run_in_threadpool(parse_model, bytes(raw), model)


def only_known_parameters(request: Request) -> None:
    """Refuse unknown and repeated query parameters. Raises a 422 problem."""
    route = request.scope.get("route")
    known = set(_names(route.dependant)) if route is not None else set()
    errors = []
    for name in dict.fromkeys(key for key, _ in request.query_params.multi_items()):
        if name not in known:
            allowed = f"; known are {', '.join(sorted(known))}" if known else ""
            errors.append((("query", name), f"unknown parameter{allowed}"))
        elif len(request.query_params.getlist(name)) > 1:
            errors.append((("query", name), "given more than once"))
    if errors:
        raise Problem("invalid-request", "a query parameter is not understood", errors=errors)


def _names(dependant: Dependant) -> Iterable[str]:
    yield from (field.alias for field in dependant.query_params)
    for below in dependant.dependencies:
        yield from _names(below)
