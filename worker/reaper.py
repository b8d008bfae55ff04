"""Finds jobs whose worker has died and jobs whose message was lost, and announces them anew."""

from __future__ import annotations

import logging

from collegium.jobs.record import Reaped
from collegium.jobs.store import JobStore
from collegium.worker.publisher import Publisher

log = logging.getLogger("collegium.worker")


def reap(store: JobStore, publisher: Publisher, *, silent_s: float) -> Reaped:
    """One round; any number of reapers may be at it. Jobs that nobody announced for ``silent_s`` are announced again.

    Raises one of ``collegium.jobs.database.UNAVAILABLE``.
    """
    reaped = store.reap()
    for hint in reaped.expired:
        log.warning("job %s: its worker went silent; it waits for another", hint.id)
        publisher.publish(hint.id, hint.queue)
    for job_id in reaped.failed:
        log.error("job %s: lost with its last attempt", job_id)
    for hint in store.publishable(older_than_s=silent_s):
        publisher.publish(hint.id, hint.queue)
    return reaped
