"""The life of a job.

::

                ┌────────give back────────┐
                ▼                         │
    create ─▶ queued ───────claim──────▶ running ──────finish─────▶ succeeded
                │                         │   └─────────fail──────▶ failed
                │                       cancel
                │                         ▼
                │                     cancelling ──finish─────────▶ succeeded   (the result came first)
                │                         └─────────stop──────────▶ cancelled
                └───────────────────drop──────────────────────────▶ cancelled

``queued``      waits for a worker. Its message may be lost; the row is what counts.
``running``     one attempt holds it, under a lease that its supervisor renews.
``cancelling``  a user cancelled it while an attempt holds it. The attempt's next heartbeat returns the request.
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
class Transition:
    """One permitted change of status."""

    source: Status
    target: Status


# A worker takes the job: the attempt's number grows by one, which fences every earlier attempt.
CLAIM = Transition("queued", "running")
# A user cancels before any worker took it, or the parent has ended and its result would have no reader.
DROP = Transition("queued", "cancelled")
# The attempt returned a result, published together with its artifacts.
FINISH = Transition("running", "succeeded")
# The attempt failed for good, or failed or was lost on its last permitted attempt.
FAIL = Transition("running", "failed")
# The attempt is over but the job is not: released by a worker that shuts down, failed in a way that a second
# attempt may survive, or its lease ran out.
GIVE_BACK = Transition("running", "queued")
# A user cancels a job that an attempt holds.
CANCEL = Transition("running", "cancelling")
# The result was there before the attempt saw the request: it is kept rather than thrown away.
KEEP = Transition("cancelling", "succeeded")
# The attempt stopped, failed while stopping, was released, or its worker is dead.
STOP = Transition("cancelling", "cancelled")

TRANSITIONS: tuple[Transition, ...] = (
    CLAIM,
    DROP,
    FINISH,
    FAIL,
    GIVE_BACK,
    CANCEL,
    KEEP,
    STOP,
)
