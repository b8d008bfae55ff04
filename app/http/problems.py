"""Every error response of the service, as ``application/problem+json`` (RFC 9457).

    Problem
    ├── 400  malformed-request, malformed-json, invalid-cursor
    ├── 401  unauthorized
    ├── 403  forbidden
    ├── 404  not-found
    ├── 405  method-not-allowed
    ├── 409  conflict
    ├── 413  too-large
    ├── 415  unsupported-media-type
    ├── 416  range-not-satisfiable
    ├── 422  invalid-request, invalid-spec, idempotency-key-reused, invalid-dataset
    ├── 500  internal
    └── 503  unavailable

``type`` is a URN that never changes; ``title`` and ``detail`` are for human readers. The size of a response does not
grow with the request: at most ``MAX_ERRORS`` fields are listed, and texts are truncated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from collegium.search.errors import Location, pointer, readable

MEDIA_TYPE = "application/problem+json"
URN = "urn:collegium:problem:"
#: Most fields that one response lists; ``detail`` counts all.
MAX_ERRORS = 20
_LONGEST_TEXT = 500

#: Slug → (status, title). A reflection test holds the documentation to this table.
KINDS: dict[str, tuple[int, str]] = {
    "malformed-request": (400, "The request is malformed"),
    "malformed-json": (400, "The body is not JSON"),
    "invalid-cursor": (400, "The cursor is invalid"),
    "unauthorized": (401, "A valid API key is required"),
    "forbidden": (403, "This request is not allowed"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "conflict": (409, "The state does not allow this"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The media type is not supported"),
    "range-not-satisfiable": (416, "The range is outside the file"),
    "invalid-request": (422, "A parameter is invalid"),
    "invalid-spec": (422, "The specification is invalid"),
    "idempotency-key-reused": (422, "The Idempotency-Key belongs to another request"),
    "invalid-dataset": (422, "The data set is invalid"),
    "internal": (500, "The service failed"),
    "unavailable": (503, "The service is not available"),
}


class FieldError(BaseModel):
    """One wrong field of a request."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="where, as in `baseline.layers[2].kernel`; `$` is the whole document")
    pointer: str = Field(description="the same place as a JSON Pointer (RFC 6901)")
    message: str = Field(description="what would be right")


class ProblemDocument(BaseModel):
    """The body of every error response (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="stable URN of the kind of problem")
    title: str
    status: int
    detail: str
    instance: str = Field(description="URN of this occurrence, which the log repeats")
    errors: list[FieldError] | None = Field(default=None, description="the wrong fields, where there are any")


class Problem(Exception):
    """An error and its response. ``kind`` is a key of ``KINDS``."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: Sequence[tuple[Location, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = _truncated(detail)
        self.errors = tuple((location, _truncated(message)) for location, message in errors[:MAX_ERRORS])
        self.headers = dict(headers or {})
        super().__init__(f"{self.status} {kind}: {self.detail}")

    def document(self, request_id: str) -> dict[str, Any]:
        """The problem as a JSON object."""
        body: dict[str, Any] = {
            "type": URN + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:uuid:{request_id}",
        }
        if self.errors:
            body["errors"] = [
                {"path": readable(location), "pointer": pointer(location), "message": message}
                for location, message in self.errors
            ]
        return body

    def response(self, request_id: str) -> Response:
        """The problem as an HTTP response."""
        return Response(
            json.dumps(self.document(request_id), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"),
            status_code=self.status,
            headers={"Cache-Control": "no-store"} | self.headers,
            media_type=MEDIA_TYPE,
        )


def of_status(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> Problem:
    """The first kind of problem with this status; other statuses become their class's general kind."""
    for kind, (code, title) in KINDS.items():
        if code == status:
            return Problem(kind, detail or title, headers=headers)
    return of_status(500 if status >= 500 else 400, detail, headers)


def _truncated(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
