"""What the routes work with: the parts of the service, a dependency of each route, and what a path names."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy import Engine

from collegium.app.http.auth import check_key, check_origin
from collegium.app.http.metrics import RequestMetrics
from collegium.app.http.problems import Problem
from collegium.app.settings import Settings
from collegium.jobs.broker import Publisher
from collegium.jobs.errors import JobNotFound
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.files.datasets import DatasetStore
from collegium.jobs.record import Artifact, Job
from collegium.jobs.store import JobStore

#: Large bodies that are parsed at a time.
LARGE_BODIES = 2
#: Uploads that are checked at a time, each in a process of its own.
CHECKED_UPLOADS = 2


@dataclass(frozen=True)
class Services:
    """The parts of a running service.

    ``stopping`` is set when it is about to end: streams close then. ``parsing`` bounds how many large bodies are
    parsed at a time, ``checking`` how many uploads are checked, and with them memory.
    """

    settings: Settings
    engine: Engine
    store: JobStore
    artifacts: ArtifactStore
    datasets: DatasetStore
    publisher: Publisher
    metrics: RequestMetrics
    streams: threading.BoundedSemaphore
    stopping: threading.Event = field(default_factory=threading.Event)
    parsing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_BODIES))
    checking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CHECKED_UPLOADS))


def _services(request: Request) -> Services:
    return request.app.state.services


ServicesDep = Annotated[Services, Depends(_services)]


def authorize(request: Request, services: ServicesDep) -> None:
    """Refuse a request without the key or the origin that it needs. Raises 401 and 403 problems."""
    required = not services.settings.loopback or services.store.has_keys()
    check_origin(request, services.settings, required)
    if required:
        check_key(request, services.store)


JobId = Annotated[str, Path(description="a job's id")]
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def require_job(services: Services, job_id: str) -> Job:
    """The job. Raises a 404 problem."""
    try:
        if _ID.match(job_id):
            return services.store.get(job_id)
    except JobNotFound:
        pass
    raise Problem("not-found", "there is no job with this id")


def require_artifact(services: Services, job_id: str, name: str) -> Artifact:
    """The job's artifact with this name. Raises a 404 problem."""
    require_job(services, job_id)
    artifact = services.store.artifact(job_id, name) if len(name) <= 512 and name.isprintable() else None
    if artifact is None:
        raise Problem("not-found", "the job has no artifact with this name")
    return artifact
