"""A job's metrics as a table in which every step occurs once, however often attempts were cut short.

An attempt that takes a training up begins at the last checkpoint, and measures again what the attempt before it had
measured since. Attempts are told apart by the state events between their rows, and where one began is its first row:
rows of earlier attempts from there on are not part of the training that goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from collegium.jobs.record import Event, Job
from collegium.jobs.store import JobStore

#: More state events than a job has.
_MOST_STATES = 10_000


@dataclass(frozen=True)
class _Restart:
    """The first row of an attempt after others: ``seq`` is that of the attempt's state event."""

    seq: int
    phase: str | None
    position: tuple[int, bool]
    from_the_start: bool

    def replaces(self, row: Event) -> bool:
        """Whether ``row`` is an earlier attempt's, at or behind the place where this one began."""
        if row.seq > self.seq:
            return False
        if row.data.get("phase") == self.phase:
            return _position(row) >= self.position
        return self.from_the_start  # a phase behind the first one


def metric_rows(store: JobStore, job: Job, after: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Up to ``limit`` rows behind the event ``after`` without those that were measured again, and where to read on.

    There are none at the end alone.
    """
    events = store.events(job.id, after, limit, types=("metric",))
    restarts = _restarts(store, job.id) if events and job.attempt > 1 else []
    while events:
        after = events[-1].seq
        rows = [event.data for event in events if not any(restart.replaces(event) for restart in restarts)]
        if rows:
            return rows, after
        events = store.events(job.id, after, limit, types=("metric",))
    return [], after


def _restarts(store: JobStore, job_id: str) -> list[_Restart]:
    states = store.events(job_id, limit=_MOST_STATES, types=("state",))
    begun = [event.seq for event in states if event.data["status"] == "running"]
    first = [(seq, row) for seq in begun for row in store.events(job_id, seq, 1, types=("metric",))]
    phases = [row.data.get("phase") for _, row in first]
    return [
        _Restart(seq, phase, _position(row), from_the_start=phase == phases[0])
        for (seq, row), phase in zip(first, phases, strict=True)
    ]


def _position(row: Event) -> tuple[int, bool]:
    """The step, and whether the row is that of a whole epoch, which comes after that of its last step."""
    step = row.data.get("step")
    return (step if isinstance(step, int) else 0, row.data.get("scope") == "epoch")
