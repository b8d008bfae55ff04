"""What every attempt of a worker shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.artifacts import ArtifactStore
from jobs.record import Job
from jobs.store import JobStore
from worker.publisher import Publisher
from worker.settings import WorkerSettings
from worker.slots import Slot
from worker.spares import Spares


@dataclass(frozen=True)
class House:
    """A worker's name, settings and stores; ``run_claimed`` runs one more attempt in a slot that the caller holds."""

    name: str
    settings: WorkerSettings
    store: JobStore
    artifacts: ArtifactStore
    publisher: Publisher
    spares: Spares
    run_claimed: Callable[[Job, Slot], None]
