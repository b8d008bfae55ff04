"""``python -m collegium.worker.embedded``: the worker as a child of ``collegium serve``.

The same Celery worker as everywhere, with slots for both queues. It prints ``collegium worker ready`` once it takes
jobs, ends on SIGTERM or SIGINT, giving its jobs back, and ends by itself when its parent has died.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

from celery.platforms import SecurityWarning
from celery.signals import worker_ready, worker_shutting_down

from collegium.jobs.subprocesses import WORKER_READY
from collegium.worker.celery import create_app
from collegium.worker.process.slots import plan_slots
from collegium.worker.settings import SettingsError, load_settings

PARENT_POLL_S = 0.5
SHUTDOWN_LIMIT_S = 20.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT, or until the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m collegium.worker.embedded", description=__doc__)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process whose death ends this one")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Celery warns a superuser of pickled messages; these are JSON, and others are refused.
    warnings.simplefilter("ignore", SecurityWarning)
    settings.home.mkdir(parents=True, exist_ok=True)
    threading.Thread(target=_end_with_parent, args=(options.parent,), name="parent", daemon=True).start()
    worker_ready.connect(_announce_ready, weak=False)
    worker = create_app(settings).Worker(
        hostname=f"embedded-{os.getpid()}@{socket.gethostname()}",
        pool="threads",
        concurrency=len(plan_slots(settings)),
        loglevel=settings.log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    # Celery's exit code counts an interrupt from the keyboard as a failure; for a service it is the usual end.
    shutting_down = threading.Event()
    worker_shutting_down.connect(lambda **_: shutting_down.set(), weak=False)
    worker.start()
    return 0 if shutting_down.is_set() else int(worker.exitcode or 0)


def _announce_ready(**_: Any) -> None:
    print(WORKER_READY, flush=True)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    # No process is left that could end a worker that does not end by itself.
    time.sleep(SHUTDOWN_LIMIT_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
