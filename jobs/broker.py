"""The broker carries messages that name a queued job: Redis, or files in a folder on one machine.

The database row is the truth and a message only a hint, so nothing here may delay or fail a request: a thread sends,
a broken broker is left alone for a moment, and what is lost is published again by the workers' own poll.

``filesystem:///FOLDER`` is kombu's transport of that name, made safe for a reader that comes between a message's
creation and its writing, and for messages that are claimed by a rename within the folder rather than by a copy to the
system's temporary folder.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import unquote, urlsplit

from celery import Celery
from kombu.exceptions import KombuError
from kombu.transport import filesystem

log = logging.getLogger("collegium.broker")

#: Name of the task that a message starts; its only argument is the job's id.
TASK = "collegium.run_job"

PAUSE_S = 2.0
WAITING_LIMIT = 10_000
FOLDER_SCHEME = "filesystem"
POLL_S = 0.05
WRITING_S = 0.5
DRAIN_S = 0.25


class BrokerDown(ConnectionError):
    """The broker cannot be reached."""


def broker_settings(broker_url: str, **socket_options: float) -> dict[str, Any]:
    """Celery's settings for ``redis://HOST:6379/0`` or ``filesystem:///FOLDER``, whose folders are created.

    FOLDER is what stands there, with ``%23`` and the like for ``#``; a ``#`` or ``?`` as it is belongs to its name.

    ``socket_options`` (seconds) are those of Redis' transport.
    """
    if urlsplit(broker_url).scheme == FOLDER_SCHEME:
        folder = "/" + broker_url.partition("://")[2].partition("/")[2]
        return {
            "broker_url": "filesystem://localhost//",
            "broker_transport": f"{__name__}:{FolderTransport.__name__}",
            "broker_transport_options": _folder_options(Path(unquote(folder))),
        }
    return {
        "broker_url": broker_url,
        "broker_transport_options": {"socket_connect_timeout": 2.0, "socket_keepalive": True, **socket_options},
    }


def _folder_options(folder: Path) -> dict[str, Any]:
    messages, control, claimed = (folder / name for name in ("messages", "control", "claimed"))
    for directory in (messages, control, claimed):
        directory.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
        "processed_folder": str(claimed),
        "polling_interval": POLL_S,
    }


def sender(broker_url: str) -> Celery:
    """A Celery application that only sends."""
    app = Celery("collegium.sender", set_as_current=False)
    app.conf.update(
        **broker_settings(broker_url, socket_connect_timeout=1.0, socket_timeout=2.0),
        broker_connection_timeout=1.0,
        broker_connection_retry=False,
        task_ignore_result=True,
        task_publish_retry=False,
    )
    return app


class Publisher:
    """Sends messages from its own thread. ``failed`` is called for each that the broker did not take."""

    def __init__(self, broker_url: str, failed: Callable[[], None] = lambda: None) -> None:
        self._app = sender(broker_url)
        self._failed = failed
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(WAITING_LIMIT)
        self._paused_until = 0.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, job_id: str, queue_name: str) -> None:
        """Have the message sent soon; never waits, never raises."""
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
        """Names of the workers that reply to a ping within the time. Raises ``BrokerDown``."""
        try:
            replies = self._app.control.ping(timeout=timeout_s)
        except (KombuError, OSError) as error:
            raise BrokerDown(str(error)) from error
        return sorted(name for reply in replies or [] for name in reply)

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
        while (message := self._waiting.get()) is not None:
            job_id, queue_name = message
            if time.monotonic() < self._paused_until:
                self._failed()
                continue
            try:
                self._app.send_task(TASK, args=[job_id], queue=queue_name, retry=False, ignore_result=True)
            except Exception as error:  # whatever it is, the thread stays, and the job has its row
                self._paused_until = time.monotonic() + PAUSE_S
                self._failed()
                log.warning("the broker did not take job %s (the workers' poll will find it): %s", job_id, error)


class FolderChannel(filesystem.Channel):
    """Reads whole messages only."""

    def _get(self, queue: str) -> Any:
        """The oldest message of ``queue``. Raises Empty."""
        ending = f"{queue}.msg"
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] != ending:
                continue
            claimed = os.path.join(self.processed_folder, name)
            try:
                os.rename(os.path.join(self.data_folder_in, name), claimed)
            except OSError:
                continue  # another reader was first
            message = _read_whole(claimed)
            os.unlink(claimed)
            if message is not None:
                return message
        raise Empty


class FolderTransport(filesystem.Transport):
    """``filesystem://`` with this module's channel."""

    Channel = FolderChannel

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for a message, in short turns: between two calls a worker acts on a request to end."""
        super().drain_events(connection, timeout=None if timeout is None else min(timeout, DRAIN_S))


def _read_whole(path: str) -> Any:
    """The message in a file, waiting a moment for its writer; None if it never becomes one (a hint is then lost)."""
    deadline = time.monotonic() + WRITING_S
    while True:
        try:
            return json.loads(Path(path).read_bytes())
        except ValueError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)
