"""The Celery application's class; ``collegium.worker.celery_app`` makes the one of this process."""

from __future__ import annotations

from celery import Celery

from collegium.jobs.database import open_engine
from collegium.jobs.migrate import upgrade
from collegium.jobs.store import JobStore
from collegium.worker.publisher import Publisher
from collegium.worker.runner import Runner
from collegium.worker.settings import WorkerSettings


class Collegium(Celery):
    """Celery, with this worker's settings and, in a worker's process, its runner."""

    settings: WorkerSettings
    runner: Runner | None = None

    def publisher(self) -> Publisher:
        """Sends through this application's broker."""
        return Publisher(self)

    def open_store(self) -> JobStore:
        """The job store of the settings, its schema brought up to date."""
        engine = open_engine(self.settings.database_url)
        upgrade(engine)
        return JobStore(engine)
