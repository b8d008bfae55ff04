"""Tells workers that a job waits. The row is the truth, the message a hint, so a broker that is down is passed over."""

from __future__ import annotations

import logging
import threading
import time

from celery import Celery
from kombu.exceptions import KombuError

log = logging.getLogger("collegium.worker")

TASK = "collegium.run_job"
PAUSE_S = 5.0


class Publisher:
    """Sends ids by task name. After a failure the broker is left alone for a moment, so that nobody waits for it."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._paused_until = 0.0

    def publish(self, job_id: str, queue: str) -> bool:
        """Send one hint; False if the broker did not take it."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            with self._lock:
                self._app.send_task(TASK, args=[job_id], queue=queue, retry=False, ignore_result=True)
        except (KombuError, OSError) as error:
            self._paused_until = time.monotonic() + PAUSE_S
            log.warning("the broker did not take job %s (a poll will find it): %s", job_id, error)
            return False
        return True
