"""Request bodies: bounded bytes, then strict JSON, then a model; each refusal names the field.

JSON Schema calls ``1.0`` an integer and pydantic's strict mode does not. The documents published at
``/openapi.json`` are JSON Schema, so a number with an integral value counts as an integer here too.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from collegium.app.http.problems import Problem
from collegium.search.locations import ROOT, Location, readable, without_tags

#: Deepest nesting of arrays and objects; specifications need nine.
MAX_DEPTH = 32
_LARGEST_EXACT = 2**53
#: Bytes from which on parsing would keep other requests waiting: a Gram matrix, say.
_SLOW = 1 << 16
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# An unterminated string matches too, to the end of the text: else each of its escaped quotes would be tried in turn.
_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},:]', re.DOTALL)

Model = TypeVar("Model", bound=BaseModel)


def check_media_type(request: Request, *accepted: str) -> str:
    """The request's media type, if it is one of ``accepted`` and is not encoded. Raises a 415 problem."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem("unsupported-media-type", f"send the body without Content-Encoding, not as {encoding!r}")
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
    if not header.isascii() or not header.isdigit():
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


async def read_model(request: Request, model: type[Model], limit: int) -> Model:
    """The body as a ``model``. Raises 400, 413, 415 and 422 problems."""
    check_media_type(request, "application/json")
    raw = b"".join([chunk async for chunk in bounded_stream(request, limit)])
    if len(raw) < _SLOW:
        return parse_model(raw, model)
    return await run_in_threadpool(parse_model, raw, model)


def parse_model(raw: bytes, model: type[Model]) -> Model:
    """Strict JSON bytes as a ``model``. Raises 400 and 422 problems."""
    document = parse_json(raw)
    try:
        return model.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise spec_problem(field_errors(error, document)) from error


def spec_problem(errors: list[tuple[Location, str]]) -> Problem:
    """The 422 problem of a specification with these wrong fields."""
    location, message = errors[0]
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return Problem("invalid-spec", f"{readable(location)}: {message}{more}", errors=errors)


def field_errors(error: ValidationError, document: Any) -> list[tuple[Location, str]]:
    """One entry for each wrong place in ``document``; the branches of a union that all failed there are joined."""
    found: dict[Location, list[str]] = {}
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        location = without_tags(item["loc"], document, missing=item["type"] == "missing")
        message = item["msg"].removeprefix("Value error, ")
        messages = found.setdefault(location, [])
        if message not in messages:
            messages.append(message)
    return [(location, ", or ".join(messages)) for location, messages in found.items()]


class _Repeated(dict):
    """An object with a key that occurs twice."""

    key: str = ""


def parse_json(raw: bytes) -> Any:
    """A JSON document without repeated keys or deep nesting. Raises 400 and 422 problems.

    NaN and Infinity are kept, so that the model can name the field that holds one.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem("malformed-json", f"the body is not UTF-8: byte {error.start}") from error
    too_deep = _first_too_deep(text)
    if too_deep is not None:
        raise spec_problem([(too_deep, f"nested deeper than {MAX_DEPTH} levels")])
    repeated: list[_Repeated] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) == len(pairs):
            return result
        flagged = _Repeated(result)
        seen: set[str] = set()
        flagged.key = next(key for key, _ in pairs if key in seen or seen.add(key))
        repeated.append(flagged)
        return flagged

    try:
        document = json.loads(text, object_pairs_hook=collect, parse_float=_number, parse_int=_integer)
    except json.JSONDecodeError as error:
        detail = f"{error.msg} at line {error.lineno}, column {error.colno}" if text.strip() else "it is empty"
        raise Problem("malformed-json", detail) from error
    if repeated:
        location = (*(_find(document, lambda node: node is repeated[0]) or ()), repeated[0].key)
        raise spec_problem([(location, "the key occurs more than once")])
    if _ESCAPED_SURROGATE.search(text):
        halved = _find(document, _has_lone_surrogate)
        if halved is not None:
            raise spec_problem([(halved, "half of a surrogate pair is no character")])
    return document


def _number(literal: str) -> float | int:
    value = float(literal)
    return int(value) if value.is_integer() and abs(value) <= _LARGEST_EXACT else value


def _integer(literal: str) -> float | int:
    """An integer too long to be a width is kept as a float: no quadratic conversion, and a model refuses it."""
    return int(literal) if len(literal) <= 20 else float(literal)


def _find(node: Any, wanted: Callable[[Any], bool]) -> Location | None:
    if wanted(node):
        return ()
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        below = _find(child, wanted)
        if below is not None:
            return (key, *below)
    return None


def _has_lone_surrogate(node: Any) -> bool:
    texts = node if isinstance(node, dict) else [node] if isinstance(node, str) else ()
    return any("\ud800" <= letter <= "\udfff" for text in texts for letter in text)


def _first_too_deep(text: str) -> Location | None:
    """Where the nesting first exceeds ``MAX_DEPTH``, cut to its readable beginning; None if it never does."""
    if not _too_deep(text):
        return None
    keys: list[str | int] = []
    last = ""
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in "[{":
            keys.append(0 if token == "[" else ROOT)
            if len(keys) > MAX_DEPTH:
                return tuple(keys[: _readable_prefix(keys)])
        elif token in "]}":
            if keys:
                keys.pop()
        elif token == "," and keys and isinstance(keys[-1], int):
            keys[-1] += 1
        elif token == ":" and keys and isinstance(keys[-1], str):
            keys[-1] = last[1:-1]
        else:
            last = token
    return None


def _too_deep(text: str) -> bool:
    """The same question without the place, for which commas and colons need not be looked at."""
    depth = 0
    for match in _BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token in "]}":
            depth -= 1
    return False


def _readable_prefix(keys: list[str | int]) -> int:
    """Steps up to the first array directly inside an array; there the nesting has begun to run away."""
    for depth, (outer, inner) in enumerate(itertools.pairwise(keys)):
        if isinstance(outer, int) and isinstance(inner, int):
            return depth
    return 4
