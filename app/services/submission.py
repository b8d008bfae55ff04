"""From a validated request to a job in the queue."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Query
from fastapi.responses import Response
from pydantic import BaseModel

from collegium.app.http.openapi import Responses, header, problems
from collegium.app.http.problems import Problem
from collegium.app.services.services import Services
from collegium.app.services.views import JobView, job_path, job_response, job_tag
from collegium.jobs.database.json_text import Encoded, digest, encode_once
from collegium.jobs.errors import IdempotencyConflict
from collegium.jobs.record import Job, Kind, Queue
from collegium.versions import software_version

_RETRY_AFTER_S = "1"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="a request that repeats key and body is answered with the same job",
    ),
]
Fresh = Annotated[bool, Query(description="compute again, even where the result of an identical request is stored")]

_FOLLOW = {"job_id": "$response.body#/id"}
_LINKS = {
    name: {"operationId": name, "parameters": _FOLLOW}
    for name in ("read_job", "cancel_job", "read_metrics", "list_artifacts", "stream_events")
}
_HEADERS = {
    "Location": header("the job's path"),
    "ETag": header("the job's entity tag"),
}
SUBMISSION_RESPONSES: Responses = {
    200: {
        "model": JobView,
        "description": "The finished job of an earlier, identical request.",
        "headers": _HEADERS,
        "links": _LINKS,
    },
    202: {
        "model": JobView,
        "description": "The job waits for a worker.",
        "headers": _HEADERS | {"Retry-After": header("seconds after which to poll the job")},
        "links": _LINKS,
    },
    **problems(
        "malformed-request",
        "malformed-json",
        "too-large",
        "unsupported-media-type",
        "invalid-request",
        "invalid-spec",
        "idempotency-key-reused",
    ),
}


def fingerprint(kind: Kind, spec: dict[str, Any] | Encoded) -> str:
    """What makes two requests the same: their kind, every field of their specification, and the software."""
    return digest({"kind": kind, "spec": spec, "version": software_version()})


def submit(services: Services, kind: Kind, spec: BaseModel, queue: Queue, key: str | None, fresh: bool) -> Response:
    """Store the job and publish its id, or find its result. Raises a 422 problem for a reused key."""
    document = encode_once(spec.model_dump(mode="json"))
    try:
        job, created = services.store.create(
            kind,
            document,
            queue=queue,
            fingerprint=fingerprint(kind, document),
            idempotency_key=key,
            reuse_result=not fresh,
        )
    except IdempotencyConflict as error:
        raise Problem("idempotency-key-reused", str(error)) from error
    if created:
        services.publisher.publish(job.id, job.queue)
    return _response(job)


def _response(job: Job) -> Response:
    headers = {"Location": job_path(job.id), "ETag": job_tag(job), "Cache-Control": "no-store"}
    if not job.terminal:
        headers["Retry-After"] = _RETRY_AFTER_S
    return job_response(job, 200 if job.terminal else 202, headers)
