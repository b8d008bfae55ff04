"""A curve through sampled points that theory does not bind to be monotone: r − 1 as a polynomial in t of any signs.

With activations that are not positively homogeneous, r − 1 is no polynomial of the inverse widths: each layer's law
depends on the size of the signal, which fluctuates by 1 / n. It still vanishes as the widths grow, to first order in
proportion to t, the part of s(n) that varies. That it falls with every width is not known. So powers of t are taken
with whatever sign they have, as many as the points ask for, and nothing lies below the least that was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.nonnegative import RESOLUTION
from collegium.search.curve.smooth import MISFIT_FLOOR, WORTH

#: Most powers of t.
MOST_POWERS = 6


@dataclass(frozen=True)
class Polynomial:
    """ln r(t) = ln(1 + Σ_k coefficient_k · (t / largest)^k), k from 1; from 0 where some variance stays.

    ``root`` R, (powers, points), gives the covariance R Rᵀ of the coefficients, widened where points scatter by more
    than their errors; ``least`` is the least ln r that was sampled.
    """

    powers: tuple[int, ...]
    largest: float
    coefficients: np.ndarray
    root: np.ndarray
    least: float
    chi_squared: float
    degrees: int

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """ln r at every t, shape of ``t``."""
        return self._log_ratio(_terms(t, self.largest, self.powers) @ self.coefficients)

    def standard_error(self, t: np.ndarray) -> np.ndarray:
        """Standard error of ln r at every t."""
        spread = np.linalg.norm(_terms(t, self.largest, self.powers) @ self.root, axis=-1)
        return spread / np.exp(self(t))

    def redraw(self, t: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """``draws`` curves within the fit's error, shape (draws, len(t))."""
        drawn = self.coefficients + generator.standard_normal((draws, self.root.shape[1])) @ self.root.T
        return self._log_ratio(drawn @ _terms(t, self.largest, self.powers).T)

    def _log_ratio(self, variance: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(variance, np.expm1(self.least)))


def fit_polynomial(points: Sequence[Point], t: np.ndarray, *, offset: bool) -> Polynomial:
    """The polynomial that agrees best with the points, each weighted by its error of ln r.

    A power is taken where it brings χ² down by more than four; ``offset`` allows a constant. Raises ``ValueError``
    without points.
    """
    if not points:
        raise ValueError("no points to draw a curve through")
    y = np.array([point.log_ratio for point in points])
    sigma = np.maximum([point.standard_error for point in points], MISFIT_FLOOR * np.abs(y) + RESOLUTION)
    largest, first = float(np.max(t)), 0 if offset else 1
    best = _fitted(y, sigma, t, largest, (first,))
    for last in range(first + 1, min(MOST_POWERS, len(points) - 1 + first) + 1):
        richer = _fitted(y, sigma, t, largest, tuple(range(first, last + 1)))
        if richer.chi_squared < best.chi_squared - WORTH * (len(richer.powers) - len(best.powers)):
            best = richer
    return best


def _fitted(y: np.ndarray, sigma: np.ndarray, t: np.ndarray, largest: float, powers: tuple[int, ...]) -> Polynomial:
    """Weighted least squares of r − 1, whose error is r times that of ln r."""
    weight = np.exp(-y) / sigma
    design = _terms(t, largest, powers) * weight[:, None]
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ (np.expm1(y) * weight)
    chi_squared = float((((design @ coefficients) - np.expm1(y) * weight) ** 2).sum())
    degrees = max(0, len(y) - len(powers))
    widened = max(1.0, chi_squared / degrees) if degrees else 1.0
    return Polynomial(powers, largest, coefficients, widened**0.5 * inverse, float(y.min()), chi_squared, degrees)


def _terms(t: np.ndarray, largest: float, powers: Sequence[int]) -> np.ndarray:
    """Powers of t relative to the largest, shape (len(t), powers)."""
    return np.stack([(np.asarray(t, float) / largest) ** power for power in powers], axis=-1)
