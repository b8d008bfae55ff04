"""What every attempt of a worker shares. Apart from the runner, which creates it and which attempts cannot import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from collegium.jobs.broker import Publisher
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.record import Job
from collegium.jobs.store import JobStore
from collegium.worker.process.slots import Slot
from collegium.worker.process.spares import Spares
from collegium.worker.settings import WorkerSettings


@dataclass(frozen=True)
class Resources:
    """A worker's name, settings and stores; ``run_claimed`` runs one more attempt in a slot that the caller holds."""

    name: str
    settings: WorkerSettings
    store: JobStore
    artifacts: ArtifactStore
    publisher: Publisher
    spares: Spares
    run_claimed: Callable[[Job, Slot], None]
