"""The Celery application, put together from the settings; and the runner, started and stopped with the worker.

A message carries a job's id and nothing else. It is acknowledged as soon as it is read, never retried, never delayed,
and no result is kept: the database holds the state of the job.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, bootsteps
from celery.signals import worker_shutting_down
from kombu.entity import Queue

from collegium.jobs.broker import TASK, Publisher, broker_settings
from collegium.jobs.database.engine import UNAVAILABLE, open_engine, why
from collegium.jobs.database.migrate import upgrade
from collegium.jobs.errors import SchemaMismatch
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.record import QUEUES
from collegium.jobs.store import JobStore
from collegium.worker.process.slots import plan_slots
from collegium.worker.runner import Runner
from collegium.worker.settings import WorkerSettings

_log = logging.getLogger("celery.worker")  # which Celery sets up before a worker's steps begin


class Collegium(Celery):
    """Celery, with this worker's settings and, in a worker's process, its runner."""

    settings: WorkerSettings
    runner: Runner | None = None

    def open_store(self) -> JobStore:
        """The job store of the settings, its schema migrated."""
        logging.getLogger("alembic").setLevel(logging.WARNING)
        engine = open_engine(self.settings.database_url)
        upgrade(engine)
        return JobStore(engine)


def register(app: Collegium) -> None:
    """Add the task to an application."""

    # Not shared: Celery would register it in every other application of the process too.
    @app.task(name=TASK, shared=False)
    def run_job(job_id: str) -> None:
        """Run a job, if it is queued and a slot is free."""
        if app.runner is not None:
            app.runner.run(job_id)


def create_app(settings: WorkerSettings) -> Collegium:
    """The application for these settings. Opens no connection."""
    app = Collegium("collegium", set_as_current=False)
    app.settings = settings
    app.conf.update(
        **broker_settings(settings.broker_url),
        broker_connection_timeout=2.0,
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
    )
    register(app)
    app.steps["worker"].add(RunnerStep)  # pyright: ignore[reportOptionalSubscript]
    worker_shutting_down.connect(_stop_runner(app), weak=False)
    return app


class RunnerStep(bootsteps.StartStopStep):
    """Starts the runner after the thread pool, and stops it before: its jobs must end for the pool to end."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Open the stores and start taking jobs from the queues that this worker consumes."""
        app: Collegium = parent.app
        settings = app.settings
        queues = set(app.amqp.queues.consume_from) & set(QUEUES)
        try:
            store = app.open_store()
        except UNAVAILABLE as error:
            raise _ending(3, f"the database does not answer: {why(error)}; see COLLEGIUM_DATABASE_URL") from error
        except SchemaMismatch as error:
            raise _ending(2, f"{error}: install a newer collegium, or use another database") from error
        self._publisher = Publisher(settings.broker_url)
        app.runner = Runner(
            name=parent.hostname,
            settings=settings,
            store=store,
            artifacts=ArtifactStore(settings.artifact_url),
            publisher=self._publisher,
            slots=[slot for slot in plan_slots(settings) if slot.queue in queues],
            limit=parent.concurrency,
        )
        app.runner.start()

    def stop(self, parent: Any) -> None:
        """Give the jobs back and wait until their processes are gone."""
        if parent.app.runner is not None:
            parent.app.runner.close()
            self._publisher.close()

    terminate = stop


def _ending(status: int, message: str) -> SystemExit:
    """What ends the worker with this line and this exit status, those of the command line."""
    _log.critical(message)
    return SystemExit(status)


def _stop_runner(app: Collegium) -> Any:
    # The signal is sent at once, the step is stopped only after the consumer.
    def stop(**_: Any) -> None:
        if app.runner is not None:
            app.runner.stop()

    return stop
