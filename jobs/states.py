"""The life of a job.

::

                ┌────────give back────────┐
                ▼                         │
    create ─▶ queued ───────claim──────▶ running ──────finish─────▶ succeeded
                │                         │   └─────────fail──────▶ failed
                │                       cancel
                │                         ▼
                │                     cancelling ──finish─────────▶ succeeded   (the answer came first)
                │                         └─────────stop──────────▶ cancelled
                └───────────────────drop──────────────────────────▶ cancelled

``queued``      waits for a worker. Its message may be lost; the row is what counts.
``running``     one attempt holds it, under a lease that its supervisor renews.
``cancelling``  a user asked for the end while an attempt holds it. The attempt learns of it with its next heartbeat.
``succeeded``, ``failed``, ``cancelled`` are absorbing: no statement of the store leaves them.

Every change is a compare-and-set on the status it leaves, so that of two that race one does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)
HELD: tuple[Status, ...] = ("running", "cancelling")
ACTIVE: tuple[Status, ...] = ("queued", "running", "cancelling")
TERMINAL: tuple[Status, ...] = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Arrow:
    """One permitted change of status."""

    source: Status
    target: Status


# A worker takes the job: the attempt's number grows by one, which fences every earlier attempt.
CLAIM = Arrow("queued", "running")
# A user cancels before any worker took it, or nobody is left who would read the result (the parent has ended).
DROP = Arrow("queued", "cancelled")
# The attempt returned a result, published together with its artifacts.
FINISH = Arrow("running", "succeeded")
# The attempt failed for good, or failed or was lost on its last permitted attempt.
FAIL = Arrow("running", "failed")
# The attempt is over but the job is not: released by a worker that shuts down, failed in a way that a second
# attempt may survive, or its lease ran out.
GIVE_BACK = Arrow("running", "queued")
# A user asks for the end of a job that an attempt holds.
CANCEL = Arrow("running", "cancelling")
# The result was there before the attempt saw the request: it is kept rather than thrown away.
KEEP = Arrow("cancelling", "succeeded")
# The attempt stopped, failed while stopping, was released, or its worker is dead.
STOP = Arrow("cancelling", "cancelled")

ARROWS: tuple[Arrow, ...] = (
    CLAIM,
    DROP,
    FINISH,
    FAIL,
    GIVE_BACK,
    CANCEL,
    KEEP,
    STOP,
)
