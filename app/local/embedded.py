"""The whole service on one machine: the API in this process, the worker as its child."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from collegium.app.main import create_app
from collegium.app.settings import Settings
from collegium.jobs.subprocesses import WORKER_READY, environment, python

log = logging.getLogger("collegium.serve")

_WORKER_GRACE_S = 15.0
_LONGEST_PAUSE_S = 30.0


class PortBusy(OSError):
    """Another process listens at the address."""


def listen(settings: Settings) -> socket.socket:
    """A socket bound to the address of the settings; port 0 takes a free one. Raises ``PortBusy``, ``OSError``."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; without, each kept-alive answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror):
            raise OSError(f"{settings.host!r} is not an address of this machine") from error
        raise PortBusy(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn, with open event streams closed at once when it stops, and a callback when it has started."""

    def __init__(self, settings: Settings, started: Callable[[], None], access_log: bool = False) -> None:
        self._app = create_app(settings)
        self._on_started = started
        super().__init__(
            uvicorn.Config(
                self._app,
                http="h11",  # which bounds a request's line and headers; the alternative does not
                log_level="info" if access_log else "warning",
                access_log=access_log,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=5,
                timeout_keep_alive=15,
            )
        )

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Close the streams, then do what uvicorn does."""
        self._app.state.services.stopping.set()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call ``started``."""
        await super().startup(sockets)
        if self.started:
            self._on_started()


def run_server(settings: Settings, listener: socket.socket, started: Callable[[], None], access_log: bool) -> None:
    """Serve until SIGINT or SIGTERM; returns then, so that what else was started can be ended."""
    # uvicorn raises the signals it has seen once more when it is done; they must not end this process.
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        Server(settings, started, access_log).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)
        listener.close()


class WorkerProcess:
    """The worker as a child process, started again when it ends by itself, and ended with its service.

    Its output goes to ``log_path``, or to this process's own where that is None.
    """

    def __init__(self, settings: Settings, log_path: Path | None) -> None:
        self._environment = environment(
            COLLEGIUM_HOME=str(settings.home),
            COLLEGIUM_DATABASE_URL=settings.database_url,
            COLLEGIUM_BROKER_URL=settings.broker_url,
            COLLEGIUM_ARTIFACT_URL=settings.artifact_url,
            COLLEGIUM_DATA_DIR=str(settings.data_dir),
            COLLEGIUM_DATASETS_DIR=str(settings.datasets_dir),
        )
        self._log_path = log_path
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.ready = threading.Event()
        self._restarter = threading.Thread(target=self._run_until_stopped, name="worker-restarter", daemon=True)

    def start(self) -> None:
        """Start it, and a thread that restarts it when it ends by itself."""
        self._restarter.start()

    @property
    def pid(self) -> int | None:
        """The child's process id, while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def stop(self) -> None:
        """Stop it, so that its jobs are released; kill it where it does not end in time."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_WORKER_GRACE_S)
            except subprocess.TimeoutExpired:
                log.warning("the worker did not end within %.0f s and is killed", _WORKER_GRACE_S)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._restarter.join(5.0)

    def _run_until_stopped(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            pause = 1.0 if time.monotonic() - began > 60 else min(2 * pause, _LONGEST_PAUSE_S)
            where = f"; see {self._log_path}" if self._log_path else ""
            print(f"the worker ended by itself with status {code}{where}; starting it again", file=sys.stderr)
            self._stopping.wait(pause)

    def _run_once(self) -> int:
        sink = self._log_path.open("a", encoding="utf-8") if self._log_path else None
        try:
            process = subprocess.Popen(
                python("-m", "collegium.worker.embedded", "--parent", str(os.getpid())),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                start_new_session=True,
            )
            self._process = process
            if self._stopping.is_set():
                process.terminate()
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == WORKER_READY:
                    self.ready.set()
                else:
                    print(line, end="", file=sink or sys.stderr, flush=True)
            process.stdout.close()
            self.ready.clear()
            return process.wait()
        finally:
            if sink is not None:
                sink.close()
