"""Jobs: list, read, cancel, and the table of their metrics."""

from __future__ import annotations

import csv
import io
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response

from collegium.app.http.conditional import none_match, tag_of_bytes
from collegium.app.http.openapi import header, problems
from collegium.app.services.metric_table import metric_rows
from collegium.app.services.services import JobId, ServicesDep, require_job
from collegium.app.services.views import JobPage, JobView, MetricTable, job_response, job_tag, job_view
from collegium.jobs.record import Kind
from collegium.jobs.states import Status

router = APIRouter(prefix="/jobs", tags=["jobs"])

IfNoneMatch = Annotated[str | None, Header(description="answer 304 while the entity tag is still one of these")]
_TAGGED = {"ETag": header("strong entity tag, for If-None-Match")}
_UNCHANGED = {304: {"description": "Unchanged since the entity tag was given.", "headers": _TAGGED}}
_FULL_LIMIT = 20
_REVALIDATE = {"Cache-Control": "no-cache"}


@router.get(
    "",
    responses={200: {"model": JobPage, "headers": _TAGGED}, **_UNCHANGED, **problems("invalid-cursor")},
    summary="List jobs, newest first",
)
def list_jobs(
    services: ServicesDep,
    kind: Annotated[Kind | None, Query(description="only jobs of this kind")] = None,
    status: Annotated[Status | None, Query(description="only jobs in this state")] = None,
    parent_id: Annotated[
        str | None, Query(description="the children of this job; without it, jobs that have no parent")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
    full: Annotated[
        bool, Query(description=f"with results, logs and long specifications; at most {_FULL_LIMIT} jobs a page")
    ] = False,
    if_none_match: IfNoneMatch = None,
) -> Response:
    page = services.store.list(
        kind=kind,
        status=status,
        parent_id=parent_id,
        top_level=parent_id is None and kind != "shard",
        limit=min(limit, _FULL_LIMIT) if full else limit,
        cursor=cursor,
        results=full,
    )
    items = [job_view(job, full) for job in page.items]
    return _conditional({"items": items, "next_cursor": page.next_cursor}, if_none_match)


@router.get(
    "/{job_id}",
    responses={200: {"model": JobView, "headers": _TAGGED}, **_UNCHANGED, **problems("not-found")},
    summary="Read a job",
)
def read_job(services: ServicesDep, job_id: JobId, if_none_match: IfNoneMatch = None) -> Response:
    job = require_job(services, job_id)
    tag = job_tag(job)
    if none_match(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag, **_REVALIDATE})
    return job_response(job, 200, {"ETag": tag, **_REVALIDATE})


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    responses={
        200: {"model": JobView, "description": "The job has ended; nothing was changed.", "headers": _TAGGED},
        202: {"model": JobView, "description": "The job is going to end.", "headers": _TAGGED},
        **problems("not-found"),
    },
    summary="Cancel a job and everything below it",
)
def cancel_job(services: ServicesDep, job_id: JobId) -> Response:
    before = require_job(services, job_id)
    job = services.store.request_cancel(job_id)
    headers = {"ETag": job_tag(job), "Cache-Control": "no-store"}
    return job_response(job, 200 if before.terminal else 202, headers)


@router.get(
    "/{job_id}/metrics",
    responses={
        200: {
            "model": MetricTable,
            "content": {"text/csv": {"schema": {"type": "string"}}},
            "headers": _TAGGED,
        },
        **_UNCHANGED,
        **problems("not-found"),
    },
    summary="Read a job's metrics as a table",
)
def read_metrics(
    services: ServicesDep,
    job_id: JobId,
    after: Annotated[int, Query(ge=0, le=2**53, description="rows after this one only")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    format: Annotated[Literal["json", "csv"], Query()] = "json",
    if_none_match: IfNoneMatch = None,
) -> Response:
    found, next_after = metric_rows(services.store, require_job(services, job_id), after, limit)
    columns, rows = _table(found)
    if format == "csv":
        text = io.StringIO()
        csv.writer(text).writerows([columns, *rows])
        return Response(text.getvalue(), media_type="text/csv", headers=_REVALIDATE)
    return _conditional({"columns": columns, "rows": rows, "next_after": next_after}, if_none_match)


def _table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return columns, [[row.get(column) for column in columns] for row in rows]


def _conditional(document: Any, if_none_match: str | None) -> Response:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    headers = {"ETag": tag_of_bytes(body), **_REVALIDATE}
    if none_match(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
