"""Folders of a job on this machine.

::

    home/work/<job>/<attempt>/            the attempt's own: gone when it ends
    home/work/<job>/<attempt>/artifacts/  what it leaves, published when it ends
    home/checkpoints/<job>/               survives attempts; gone when the job has ended
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from collegium.jobs.errors import InvalidName, JobNotFound
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.record import Artifact, Job
from collegium.jobs.store import JobStore


class NotPublished(OSError):
    """The artifact store did not accept a file."""


class Workspace:
    """The folders of one attempt."""

    def __init__(self, home: Path, job: Job) -> None:
        self.job = job
        self.workdir = home / "work" / job.id / str(job.attempt)
        self.artifact_dir = self.workdir / "artifacts"
        self.checkpoint_dir = home / "checkpoints" / job.id

    def create(self) -> None:
        """Create them; the attempt's own is empty."""
        shutil.rmtree(self.workdir, ignore_errors=True)
        self.artifact_dir.mkdir(parents=True)
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Names and paths of what the attempt left; hidden files and links are not part of it."""
        if not self.artifact_dir.is_dir():
            return
        for path in sorted(self.artifact_dir.rglob("*")):
            name = path.relative_to(self.artifact_dir)
            if path.is_file() and not path.is_symlink() and not any(part.startswith(".") for part in name.parts):
                yield name.as_posix(), path

    def publish(self, store: ArtifactStore) -> list[Artifact]:
        """Copy what the attempt left to the artifact store. Raises InvalidName, NotPublished."""
        try:
            return [store.put_file(self.job.id, self.job.attempt, name, path) for name, path in self.files()]
        except InvalidName:
            raise
        except Exception as error:
            # Object stores raise what their own libraries raise.
            raise NotPublished(str(error)) from error

    def discard(self, *, ended: bool) -> None:
        """Remove the attempt's own folder and, when the job has ended, its checkpoints."""
        shutil.rmtree(self.workdir, ignore_errors=True)
        _remove_if_empty(self.workdir.parent)
        if ended:
            shutil.rmtree(self.checkpoint_dir, ignore_errors=True)


def sweep(home: Path, store: JobStore) -> None:
    """Remove what attempts left behind whose worker was killed: folders of jobs that have ended, and of attempts that
    no longer hold their job.
    """
    for folder in _folders(home / "work"):
        job = _job(store, folder.name)
        if job is None:
            continue
        for attempt in _folders(folder):
            if job.terminal or job.status == "queued" or attempt.name != str(job.attempt):
                shutil.rmtree(attempt, ignore_errors=True)
        _remove_if_empty(folder)
    for folder in _folders(home / "checkpoints"):
        job = _job(store, folder.name)
        if job is not None and job.terminal:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []


def _job(store: JobStore, job_id: str) -> Job | None:
    # A folder without a job in this database may belong to another one.
    try:
        return store.get(job_id)
    except JobNotFound:
        return None


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
