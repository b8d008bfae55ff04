"""The callbacks of a training: progress, and events that are recorded. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collegium.search.progress import Report, discard, scaled

#: ``event(type, data)``, data as JSON-able values.
Event = Callable[[str, dict[str, Any]], None]


def discard_event(kind: str, data: dict[str, Any]) -> None:
    """Discard events: the default where they are not recorded."""


@dataclass(frozen=True)
class TrainingCallback:
    """Called during a training: ``report(fraction, message)``, which may raise to stop it, and ``event(type, data)``.

    An exception of either is re-raised after a checkpoint is saved.
    """

    report: Report = discard
    event: Event = discard_event

    def part(self, index: int, count: int) -> TrainingCallback:
        """The callback of part ``index`` of ``count`` equal parts, each of which reports from 0 to 1."""
        return TrainingCallback(scaled(self.report, index / count, (index + 1) / count), self.event)
