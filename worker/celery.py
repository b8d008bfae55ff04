"""The Celery application, put together from the settings; and the runner, started and stopped with the worker.

A message carries a job's id and nothing else. It is acknowledged as soon as it is read, never retried, never delayed,
and no result is kept: the database does all that.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, bootsteps
from celery.signals import worker_shutting_down
from kombu.entity import Queue

from collegium.jobs import folder_broker
from collegium.jobs.database.engine import open_engine
from collegium.jobs.database.migrate import upgrade
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.record import QUEUES
from collegium.jobs.store import JobStore
from collegium.worker.process.slots import plan_slots
from collegium.worker.publisher import TASK, Publisher
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


REAP = "collegium.reap"


def register(app: Collegium) -> None:
    """Add the tasks to an application."""

    @app.task(name=TASK)
    def run_job(job_id: str) -> None:
        """Run a job, if it waits and there is room for it."""
        if app.runner is not None:
            app.runner.run(job_id)

    @app.task(name=REAP)
    def reap() -> None:
        """Look for lost jobs; beat sends it, for set-ups that want a reaper beside those in the workers."""
        if app.runner is not None:
            app.runner.reap_once()


log = logging.getLogger("collegium.worker")

FOLDER_TRANSPORT = "collegium.jobs.folder_broker:Transport"


def create_app(settings: WorkerSettings) -> Collegium:
    """The application for these settings. Opens no connection."""
    app = Collegium("collegium", set_as_current=False)
    app.settings = settings
    app.conf.update(
        **_broker(settings.broker_url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],
        task_default_queue="search",
        accept_content=["json"],
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_send_task_events=False,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={"reap": {"task": REAP, "schedule": settings.reap_s, "options": {"expires": 60}}},
    )
    register(app)
    app.steps["worker"].add(RunnerStep)  # pyright: ignore[reportOptionalSubscript]
    worker_shutting_down.connect(_stop_runner(app), weak=False)
    return app


class RunnerStep(bootsteps.StartStopStep):
    """Starts the runner after the thread pool, and stops it before: its jobs must end for the pool to end."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Open the stores and begin to look for work in the queues that this worker consumes."""
        app: Collegium = parent.app
        settings = app.settings
        queues = set(app.amqp.queues.consume_from) & set(QUEUES)
        app.runner = Runner(
            name=parent.hostname,
            settings=settings,
            store=app.open_store(),
            artifacts=ArtifactStore(settings.artifact_url),
            publisher=app.publisher(),
            slots=[slot for slot in plan_slots(settings) if slot.queue in queues],
            limit=parent.concurrency,
        )
        app.runner.start()

    def stop(self, parent: Any) -> None:
        """Give the jobs back and wait until their processes are gone."""
        if parent.app.runner is not None:
            parent.app.runner.close()

    terminate = stop


def _stop_runner(app: Collegium) -> Any:
    # The signal comes at once; the step's turn only after the consumer has noticed.
    def stop(**_: Any) -> None:
        if app.runner is not None:
            app.runner.stop()

    return stop


def _broker(url: str) -> dict[str, Any]:
    if urlsplit(url).scheme == folder_broker.SCHEME:
        return {
            "broker_url": "filesystem://localhost//",
            "broker_transport": FOLDER_TRANSPORT,
            "broker_transport_options": folder_broker.options(url),
        }
    return {
        "broker_url": url,
        "broker_connection_timeout": 2.0,
        "broker_transport_options": {"socket_connect_timeout": 2.0, "socket_keepalive": True},
    }
