"""Jobs, events, artifacts and data sets as the API represents them.

The models document the responses, and tests hold the responses to them; the responses themselves are built as plain
dictionaries from the stored rows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from collegium.app.http.conditional import tag_of
from collegium.jobs.database.json_text import encode, encode_object
from collegium.jobs.record import Artifact, Dataset, Event, FailureKind, Job, Kind
from collegium.jobs.states import Status
from collegium.versions import software_version


class View(BaseModel):
    """A closed part of a response."""

    model_config = ConfigDict(extra="forbid")


class ProgressView(View):
    """The progress of a job."""

    fraction: float = Field(ge=0, le=1)
    message: str


class FailureView(View):
    """Why a job failed, and the remedy."""

    kind: FailureKind
    message: str
    remedy: str
    log_tail: str


class LinksView(View):
    """Related resources of a job; paths on this server."""

    self: str
    events: str
    artifacts: str
    metrics: str
    cancel: str
    children: str
    parent: str | None = None


class JobView(View):
    """A job: its specification, its progress and its result."""

    id: str
    kind: Kind
    status: Status
    progress: ProgressView
    spec: dict[str, Any] = Field(description="the request, with every default filled in")
    result: dict[str, Any] | None = Field(description="the result of a succeeded job; its shape depends on `kind`")
    failure: FailureView | None
    attempt: int = Field(ge=0, description="how many attempts have begun")
    max_attempts: int
    cancel_requested: bool
    parent_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    links: LinksView


class JobPage(View):
    """Jobs, newest first.

    Unless ``full=true`` was asked for, ``result``, ``failure.log_tail`` and a ``spec`` of over 64 KiB are left out.
    """

    items: list[JobView]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null on the last one")


class ArtifactView(View):
    """A file that a job wrote."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    media_type: str
    link: str


class ArtifactList(View):
    """The files of a job; an attempt's files appear together, when it ends."""

    items: list[ArtifactView]


class DatasetView(View):
    """An uploaded data set; its id is the SHA-256 of its bytes."""

    id: str
    name: str
    bytes: int
    kind: str
    summary: dict[str, Any]
    created_at: datetime
    link: str


class DatasetPage(View):
    """Data sets, newest first."""

    items: list[DatasetView]
    next_cursor: str | None


class MetricTable(View):
    """Training metrics: one row for each metric event, with the union of their columns.

    Of what several attempts measured the last one's rows are left.
    """

    columns: list[str]
    rows: list[list[Any]]
    next_after: int = Field(description="give it as `after` to read on")


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds."""
    return moment and moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def job_path(job_id: str) -> str:
    """A job's own path."""
    return f"/v1/jobs/{quote(job_id, safe='')}"


def artifact_path(job_id: str, name: str) -> str:
    """The path of one of a job's files."""
    return f"{job_path(job_id)}/artifacts/{quote(name)}"


def job_view(job: Job, full: bool = True) -> dict[str, Any]:
    """A job as a JSON object; without its result and log where not ``full``."""
    return _job_view(job, job.spec, full)


def job_response(job: Job, status: int, headers: dict[str, str]) -> Response:
    """The whole of a job, whose specification is sent as it is stored."""
    members = {name: encode(member) for name, member in _job_view(job, None).items()} | {"spec": job.spec_text}
    return Response(encode_object(members), status, headers, media_type="application/json")


def _job_view(job: Job, spec: dict[str, Any] | None, full: bool = True) -> dict[str, Any]:
    path = job_path(job.id)
    failure = job.failure and job.failure.as_dict()
    if failure and not full:
        failure["log_tail"] = ""
    return {
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "progress": {"fraction": job.fraction, "message": job.message},
        "spec": spec,
        "result": _linked(job) if full else None,
        "failure": failure,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "cancel_requested": job.cancel_requested,
        "parent_id": job.parent_id,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "updated_at": timestamp(job.updated_at),
        "links": {
            "self": path,
            "events": f"{path}/events",
            "artifacts": f"{path}/artifacts",
            "metrics": f"{path}/metrics",
            "cancel": f"{path}/cancel",
            "children": f"/v1/jobs?parent_id={quote(job.id, safe='')}",
            "parent": job.parent_id and job_path(job.parent_id),
        },
    }


def _linked(job: Job) -> dict[str, Any] | None:
    """The result, with a link on each artifact that it names."""
    artifacts = (job.result or {}).get("artifacts")
    if not isinstance(artifacts, list):
        return job.result
    linked = [item | {"link": artifact_path(job.id, item["name"])} for item in artifacts]
    return (job.result or {}) | {"artifacts": linked}


def job_tag(job: Job) -> str:
    """A job's entity tag: it changes with every visible change, and with the software's version."""
    return tag_of(f"{job.id}.{job.revision}.{software_version()}")


def artifact_view(job_id: str, artifact: Artifact) -> dict[str, Any]:
    """An artifact as a JSON object."""
    return {
        "name": artifact.name,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "media_type": artifact.media_type,
        "link": artifact_path(job_id, artifact.name),
    }


def dataset_view(dataset: Dataset) -> dict[str, Any]:
    """A data set as a JSON object."""
    return {
        "id": dataset.id,
        "name": dataset.name,
        "bytes": dataset.bytes,
        "kind": dataset.kind,
        "summary": dataset.summary,
        "created_at": timestamp(dataset.created_at),
        "link": f"/v1/datasets/{dataset.id}",
    }


def event_view(event: Event) -> dict[str, Any]:
    """An event's data, with its time."""
    return {**event.data, "at": timestamp(event.at)}
