"""Progress as one callback: how much of the work is done, and a chance to stop it.

``report(fraction, message)`` runs from 0 to 1 and may raise, to cancel: the exception passes through the computation to
its caller. Work in several parts gives each part a stretch of the caller's scale:

>>> seen = []
>>> second_half = scaled(lambda fraction, message: seen.append(fraction), 0.5, 1.0)
>>> second_half(0.0, "sampling"), second_half(0.5, "sampling"), second_half(1.0, "sampling")
(None, None, None)
>>> seen
[0.5, 0.75, 1.0]
"""

from __future__ import annotations

from collections.abc import Callable

#: ``report(fraction, message)``, fraction from 0 to 1.
Report = Callable[[float, str], None]


def discard(fraction: float, message: str) -> None:
    """Discard progress: the default where no report is wanted."""


def scaled(report: Report, start: float, end: float) -> Report:
    """A report whose 0 … 1 is ``start … end`` of ``report``; fractions outside 0 … 1 are clipped."""

    def part(fraction: float, message: str) -> None:
        report(start + (end - start) * min(1.0, max(0.0, fraction)), message)

    return part
