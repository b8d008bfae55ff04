"""Learning rate and number of epochs, by a search that ends where the best of them is not at the end of what was tried.

A point (i, j) stands for the rate r·2^i and the j-th number of epochs. The neighbours of the shortest training that is
within a standard error of the best are tried until none is left; only a stated bound ends the search otherwise, and the
choice then says so. The choice is the best of all that was tried: it may lie at an end only where it is no better, by
more than the error, than a point that has been tried on all sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Point = tuple[int, int]
#: Validation accuracy; −∞ where the training diverged.
Scores = Mapping[Point, float]


@dataclass(frozen=True)
class Bounds:
    """Steps of the rate and of the number of epochs beyond which nothing is tried, both ends included."""

    rates: tuple[int, int]
    lengths: tuple[int, int]

    def __contains__(self, point: Point) -> bool:
        return self.rates[0] <= point[0] <= self.rates[1] and self.lengths[0] <= point[1] <= self.lengths[1]


#: Standard error of the difference of two neighbours' accuracies on 2 · 5,000 images: they disagree on a tenth.
ERROR = 0.003
#: Validation accuracy that is not worth twice the epochs.
TOLERANCE = 0.001


def best_point(scores: Scores, *, tolerance: float = TOLERANCE) -> Point | None:
    """The shortest training within ``tolerance`` of the highest score, at the rate that is best there.

    Of equals, the lowest rate. None where all diverged. Whether a score that is ``tolerance`` below the highest to the
    digit is within it, the rounding of binary fractions decides, alike on every machine.

    >>> best_point({(0, 3): 0.8, (1, 3): 0.81, (1, 4): 0.8105})
    (1, 3)
    """
    highest = max(scores.values())
    good = [point for point, score in scores.items() if -math.inf < score and score >= highest - tolerance]
    return min(good, key=lambda point: (point[1], -scores[point], point[0]), default=None)


def untried(scores: Scores, bounds: Bounds, *, diagonal: bool = True) -> list[Point]:
    """Neighbours of the shortest training within ``ERROR`` of the best that are still to be tried.

    Where everything diverged, the next lower rate. ``diagonal`` neighbours differ in rate and epochs.

    >>> untried({(-1, 3): 0.8, (0, 3): 0.7, (-1, 2): 0.6}, Bounds((-6, 6), (0, 3)), diagonal=False)
    [(-2, 3)]
    """
    best = best_point(scores, tolerance=ERROR)
    if best is None:
        lowest = min(scores)
        return [point for point in [(lowest[0] - 1, lowest[1])] if point in bounds]
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i or j) and (diagonal or not (i and j))]
    around = [(best[0] + i, best[1] + j) for i, j in steps]
    return [point for point in around if point in bounds and point not in scores]


def reached(point: Point, bounds: Bounds) -> tuple[str, ...]:
    """Which bounds a chosen point lies at, in words; a dimension without a choice has none.

    >>> reached((6, 2), Bounds((-6, 6), (0, 9)))
    ('highest rate',)
    """
    found = []
    for step, (low, high), (first, last) in (
        (point[0], bounds.rates, ("lowest rate", "highest rate")),
        (point[1], bounds.lengths, ("fewest epochs", "most epochs")),
    ):
        if low < high:
            found += [first] * (step == low) + [last] * (step == high)
    return tuple(found)
