"""Fitting α: a weighted line through the origin, ln r ≈ α·s(n) (Littwin et al. 2020, Eq. 9).

ln r is not linear in s at small widths, and a sampled ln r is biased low there by the heavy tail of K. So every
point counts by its *relative* error, which a line through the origin turns into the weight 1 / s², and the default
window keeps the widths at which ln r is small. Residuals are reported for every point, inside the window or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: ln r up to which a point is in the default window: beyond it, the curvature of ln r in s is visible.
LINEAR_LOG_RATIO = 0.35
#: Fewest points of a default window.
FEWEST_POINTS = 4
#: Relative errors are clipped to this range: the line is no more exact than the first, and beyond the second a point
#: carries no information.
LEAST_ERROR, MOST_ERROR = 1e-3, 1e3


@dataclass(frozen=True)
class Point:
    """ln r at one width vector, exact (``samples`` = 0) or sampled; infinite where all samples were zero."""

    widths: tuple[int, ...]
    inverse_fan_in_sum: float
    log_ratio: float
    standard_error: float = 0.0
    samples: int = 0
    converged: bool = True

    @property
    def relative_error(self) -> float:
        """Standard error of ln r relative to it, between 10⁻³ and 10³; infinite where ln r itself is lost in noise."""
        if self.log_ratio <= 0:
            return math.inf
        return min(max(self.standard_error / self.log_ratio, LEAST_ERROR), MOST_ERROR)


@dataclass(frozen=True)
class Line:
    """ln r = α·s + residual; ``used`` marks the points that took part. ``window`` bounds their first widths."""

    alpha: float
    standard_error: float
    r_squared: float
    used: tuple[bool, ...]
    residuals: tuple[float, ...]
    window: tuple[int, int]

    def largest_relative_residual(self, points: Sequence[Point]) -> float:
        """Largest |residual| / ln r among the points used."""
        misses = zip(self.residuals, points, self.used, strict=True)
        return max(abs(residual) / max(point.log_ratio, 1e-300) for residual, point, used in misses if used)


def fit_line(points: Sequence[Point], window: tuple[int, int | None] | None = None) -> Line:
    """Fit α to the points whose first width is in ``window``, or in the default window.

    The weighted least-squares α is the mean of the local slopes ln r / s, each weighted by 1 / (relative error)².
    Its standard error is the formal one, widened by the scatter of the slopes where that is larger than the points'
    errors explain. Raises ``ValueError`` where no point is in the window.
    """
    used = _in_window(points, window)
    if not any(used):
        raise ValueError("no point is in the fit's window")
    chosen = [point for point, use in zip(points, used, strict=True) if use]
    slopes = np.array([point.log_ratio / point.inverse_fan_in_sum for point in chosen])
    weights = np.array([point.relative_error**-2.0 for point in chosen])
    if not weights.sum() > 0:
        raise ValueError("at no point in the fit's window do the samples show any variance")
    alpha = float(np.average(slopes, weights=weights))
    residuals = tuple(point.log_ratio - alpha * point.inverse_fan_in_sum for point in points)
    first = [point.widths[0] for point in chosen]
    return Line(
        alpha=alpha,
        standard_error=_standard_error(alpha, slopes, weights, chosen),
        r_squared=_r_squared(alpha, chosen, weights),
        used=tuple(used),
        residuals=residuals,
        window=(min(first), max(first)),
    )


def _in_window(points: Sequence[Point], window: tuple[int, int | None] | None) -> list[bool]:
    if window is not None:
        low, high = window
        return [low <= point.widths[0] and (high is None or point.widths[0] <= high) for point in points]
    linear = [0 < point.log_ratio <= LINEAR_LOG_RATIO for point in points]
    if sum(linear) >= min(FEWEST_POINTS, len(points)):
        return linear
    smallest = sorted(range(len(points)), key=lambda index: points[index].inverse_fan_in_sum)[:FEWEST_POINTS]
    return [index in smallest for index in range(len(points))]


def _standard_error(alpha: float, slopes: np.ndarray, weights: np.ndarray, points: Sequence[Point]) -> float:
    """Formal error from the points' own, times √(χ² / degrees of freedom) where that exceeds 1."""
    errors = np.array([min(point.standard_error, MOST_ERROR) / point.inverse_fan_in_sum for point in points])
    share = weights / weights.sum()
    formal = float(np.sqrt(np.sum((share * errors) ** 2)))
    if len(points) == 1:
        return formal
    scatter = float(np.sqrt(np.sum(share**2 * (slopes - alpha) ** 2) * len(points) / (len(points) - 1)))
    return max(formal, scatter)


def _r_squared(alpha: float, points: Sequence[Point], weights: np.ndarray) -> float:
    """Share of the weighted variance of ln r about its mean that the line explains; 1 for a single point."""
    s = np.array([point.inverse_fan_in_sum for point in points])
    y = np.array([point.log_ratio for point in points])
    weights = weights / s**2
    spread = np.sum(weights * (y - np.average(y, weights=weights)) ** 2)
    return 1.0 if spread == 0 else float(1 - np.sum(weights * (y - alpha * s) ** 2) / spread)
