"""Paired differences with intervals of Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference and the half width of its interval, NaN for fewer than two pairs."""

    mean: float
    half: float
    pairs: int

    @property
    def sign(self) -> int:
        """1 or −1 where the interval excludes 0, else 0."""
        return 0 if math.isnan(self.half) or abs(self.mean) <= self.half else int(math.copysign(1, self.mean))

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.half:.2f}" if self.pairs > 1 else "–"


def mean_difference(differences: Sequence[float], *, level: float = LEVEL) -> Difference:
    """Their mean with its ``level`` interval, mean ± t · s/√n with n − 1 degrees of freedom.

    >>> str(mean_difference([1.0, 2.0, 3.0]))
    '+2.00 ± 2.48'
    """
    count = len(differences)
    if count < 2:
        return Difference(fmean(differences) if differences else math.nan, math.nan, count)
    half = float(t.ppf((1 + level) / 2, count - 1)) * stdev(differences) / math.sqrt(count)
    return Difference(fmean(differences), half, count)
