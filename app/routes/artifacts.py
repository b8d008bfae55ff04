"""The files that a job wrote: listed, and downloaded whole or in part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse, Response, StreamingResponse

from collegium.app.http.conditional import (
    Span,
    Unsatisfiable,
    none_match,
    range_allowed,
    requested_span,
    sha256_digest,
    tag_of,
)
from collegium.app.http.openapi import Responses, binary, header, problems
from collegium.app.http.problems import Problem
from collegium.app.services.services import JobId, ServicesDep, require_artifact, require_job
from collegium.app.services.views import ArtifactList, artifact_view
from collegium.jobs.errors import ArtifactNotFound
from collegium.jobs.files.artifacts import RangeReader
from collegium.jobs.record import Artifact

router = APIRouter(prefix="/jobs", tags=["artifacts"])

_CHUNK = 1 << 18
_FILE_HEADERS = {
    "ETag": header("strong entity tag: the file's SHA-256"),
    "Accept-Ranges": header("`bytes`"),
    "Repr-Digest": header("SHA-256 of the whole file (RFC 9530)"),
    "Content-Disposition": header("the name to save the file under"),
}
_DOWNLOAD: Responses = {
    200: {
        "description": "The whole file.",
        "content": binary("*/*"),
        "headers": _FILE_HEADERS | {"Content-Digest": header("SHA-256 of the content (RFC 9530)")},
    },
    206: {
        "description": "The range asked for.",
        "content": binary("*/*"),
        "headers": _FILE_HEADERS | {"Content-Range": header("which bytes these are")},
    },
    304: {"description": "Unchanged.", "headers": {"ETag": _FILE_HEADERS["ETag"]}},
    **problems("not-found", "range-not-satisfiable"),
}

Range = Annotated[str | None, Header(description="one range of bytes, as in `bytes=1000-`")]
IfRange = Annotated[str | None, Header(description="send the range only while this is the entity tag")]
IfNoneMatch = Annotated[str | None, Header(description="answer 304 while the entity tag is one of these")]


@router.get(
    "/{job_id}/artifacts",
    responses={200: {"model": ArtifactList}, **problems("not-found")},
    summary="List a job's files",
)
def list_artifacts(services: ServicesDep, job_id: JobId) -> JSONResponse:
    require_job(services, job_id)
    items = [artifact_view(job_id, artifact) for artifact in services.store.artifacts(job_id)]
    return JSONResponse({"items": items})


@router.get(
    "/{job_id}/artifacts/{name:path}",
    response_class=Response,
    responses=_DOWNLOAD,
    summary="Download a file, or a range of it",
)
def download_artifact(
    services: ServicesDep,
    job_id: JobId,
    name: str,
    range: Range = None,
    if_range: IfRange = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    artifact = require_artifact(services, job_id, name)
    tag = tag_of(artifact.sha256)
    headers = _headers(artifact, tag)
    if none_match(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    try:
        span = requested_span(range, artifact.bytes) if range_allowed(if_range, tag) else None
    except Unsatisfiable:
        raise Problem(
            "range-not-satisfiable",
            f"the file has {artifact.bytes} bytes",
            headers={"Content-Range": f"bytes */{artifact.bytes}"},
        ) from None
    sent = span or Span(0, artifact.bytes)
    if span is None:
        headers["Content-Digest"] = headers["Repr-Digest"]
    else:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{artifact.bytes}"
    headers["Content-Length"] = str(len(sent))
    try:
        file = services.artifacts.open(artifact.location, sent.start, sent.end)
    except ArtifactNotFound as error:
        raise Problem("not-found", "the file is no longer in the artifact store") from error
    return StreamingResponse(
        _chunks(file), status_code=200 if span is None else 206, headers=headers, media_type=artifact.media_type
    )


@router.head(
    "/{job_id}/artifacts/{name:path}",
    response_class=Response,
    responses={200: _DOWNLOAD[200] | {"content": {}}, 304: _DOWNLOAD[304], 404: {"description": "Not found."}},
    summary="Read a file's size and digest",
)
def describe_artifact(services: ServicesDep, job_id: JobId, name: str, if_none_match: IfNoneMatch = None) -> Response:
    artifact = require_artifact(services, job_id, name)
    headers = _headers(artifact, tag_of(artifact.sha256))
    if none_match(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    headers |= {"Content-Length": str(artifact.bytes), "Content-Digest": headers["Repr-Digest"]}
    return Response(headers=headers, media_type=artifact.media_type)


def _headers(artifact: Artifact, tag: str) -> dict[str, Any]:
    saved_as = quote(artifact.name.rsplit("/", 1)[-1], safe="")
    return {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache",
        "Repr-Digest": sha256_digest(artifact.sha256),
        "Content-Disposition": f"attachment; filename*=UTF-8''{saved_as}",
    }


def _chunks(file: RangeReader) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk
