"""Tells workers that a job waits: one message with its id, sent by task name, best effort.

The database row is the truth and a message only a hint, so nothing here may delay or fail a request: a thread sends,
a broken broker is left alone for a moment, and what is lost is published again by the workers' own poll.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.exceptions import KombuError

log = logging.getLogger("collegium.publisher")

TASK = "collegium.run_job"
_FOLDER_SCHEME = "filesystem"
_PAUSE_S = 2.0
_WAITING_LIMIT = 10_000


class BrokerDown(ConnectionError):
    """The broker cannot be reached."""


def sender(broker_url: str) -> Celery:
    """A Celery application that only sends. ``filesystem:///folder`` is a broker made of files in that folder."""
    url, options = _transport(broker_url)
    app = Celery("collegium.sender", broker=url, set_as_current=False)
    app.conf.update(
        broker_transport_options=options,
        broker_connection_timeout=1.0,
        broker_connection_retry=False,
        task_ignore_result=True,
        task_publish_retry=False,
        worker_enable_remote_control=True,
    )
    return app


def _transport(broker_url: str) -> tuple[str, dict[str, Any]]:
    parts = urlsplit(broker_url)
    if parts.scheme != _FOLDER_SCHEME:
        return broker_url, {"socket_connect_timeout": 1.0, "socket_timeout": 2.0}
    messages, control = Path(parts.path) / "messages", Path(parts.path) / "control"
    for folder in (messages, control):
        folder.mkdir(parents=True, exist_ok=True)
    options = {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
    }
    return "filesystem://localhost", options


class Publisher:
    """Sends hints from its own thread. ``failed`` is called for each that the broker did not take."""

    def __init__(self, broker_url: str, failed: Callable[[], None] = lambda: None) -> None:
        self._app = sender(broker_url)
        self._failed = failed
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(_WAITING_LIMIT)
        self._paused_until = 0.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, job_id: str, queue_name: str) -> None:
        """Have the hint sent soon; never waits, never raises."""
        try:
            self._waiting.put_nowait((job_id, queue_name))
        except queue.Full:
            self._failed()

    def check(self) -> None:
        """Connect to the broker now. Raises ``BrokerDown``."""
        connection = self._app.connection_for_write()
        try:
            with connection:
                connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=1.0)
        except (KombuError, OSError, *connection.recoverable_connection_errors) as error:
            raise BrokerDown(str(error)) from error

    def workers(self, timeout_s: float = 1.0) -> list[str]:
        """Names of the workers that answer a ping within the time. Raises ``BrokerDown``."""
        try:
            answers = self._app.control.ping(timeout=timeout_s)
        except (KombuError, OSError) as error:
            raise BrokerDown(str(error)) from error
        return sorted(name for answer in answers or [] for name in answer)

    def close(self, timeout_s: float = 3.0) -> None:
        """Send what waits, for at most ``timeout_s`` seconds, and end the thread."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._app.close()

    def _run(self) -> None:
        while (hint := self._waiting.get()) is not None:
            job_id, queue_name = hint
            if time.monotonic() < self._paused_until:
                self._failed()
                continue
            try:
                self._app.send_task(TASK, args=[job_id], queue=queue_name, retry=False, ignore_result=True)
            except Exception as error:  # whatever it is, the thread stays, and the job has its row
                self._paused_until = time.monotonic() + _PAUSE_S
                self._failed()
                log.warning("the broker did not take job %s (the workers' poll will): %s", job_id, error)
