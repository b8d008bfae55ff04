"""Jobs and artifacts by the ids in a path; what is not found is a 404 problem."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Path

from collegium.app.http.problems import Problem
from collegium.app.services.services import Services
from collegium.jobs.errors import JobNotFound
from collegium.jobs.record import Artifact, Job

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
