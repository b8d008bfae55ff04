"""The callbacks of a training: progress, and events that are recorded. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from collegium.search.progress import Report, discard, scaled

#: ``event(type, data)``, data as JSON-able values.
Event = Callable[[str, dict[str, Any]], None]
#: ``settle()`` returns when all events so far are recorded for good.
Settle = Callable[[], None]


def discard_event(kind: str, data: dict[str, Any]) -> None:
    """Discard events: the default where they are not recorded."""


def settled() -> None:
    """The default where events are recorded at once, or not at all."""


@dataclass(frozen=True)
class TrainingCallback:
    """Called during a training: ``report(fraction, message)``, which may raise to stop it, and ``event(type, data)``.

    An exception of either is re-raised after a checkpoint is saved; an event that raises counts as recorded, since a
    resumed training goes on behind it. ``settle()`` is called before a checkpoint is saved, for the same reason.
    """

    report: Report = discard
    event: Event = discard_event
    settle: Settle = settled

    def part(self, index: int, count: int) -> TrainingCallback:
        """The callback of part ``index`` of ``count`` equal parts, each of which reports from 0 to 1."""
        return replace(self, report=scaled(self.report, index / count, (index + 1) / count))
