"""The Celery application's class; ``worker.celery_app`` makes the one of this process."""

from __future__ import annotations

from celery import Celery

from jobs.database import open_engine
from jobs.migrate import upgrade
from jobs.store import JobStore
from worker.publisher import Publisher
from worker.runner import Runner
from worker.settings import WorkerSettings


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
