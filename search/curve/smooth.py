"""A smooth curve through sampled points: ln r as a short polynomial in the part of s(n) that varies with the width.

The line of Eq. 9 (Littwin et al. 2020) bends at small widths, where the optimum often lies. Dividing by t, the points
are fitted by weighted least squares with ln r = a₁ t + a₂ t² + …, as many terms as the points' errors ask for. There
is no constant term: ln r → 0 as the widths grow, unless a hidden layer of fixed width keeps some variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.networks.network import Network

#: Fewest and most terms of the polynomial; a line alone would hide how little is known of the curve's bend.
FEWEST_TERMS, MOST_TERMS = 2, 4
#: Relative misfit that is not worth another term.
MISFIT_FLOOR = 2e-3


@dataclass(frozen=True)
class Polynomial:
    """ln r(t) = Σ_k coefficient_k · t^power_k; the coefficients' covariance is root · rootᵀ."""

    powers: tuple[int, ...]
    coefficients: np.ndarray
    root: np.ndarray
    chi_squared: float
    degrees: int

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """ln r at every t, shape of ``t``."""
        return self._terms(t) @ self.coefficients

    def standard_error(self, t: np.ndarray) -> np.ndarray:
        """Standard error of ln r at every t."""
        return np.linalg.norm(self._terms(t) @ self.root, axis=-1)

    def redraw(self, t: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """``draws`` curves within the fit's error, shape (draws, len(t))."""
        noise = generator.standard_normal((draws, len(self.powers)))
        return (self.coefficients + noise @ self.root.T) @ self._terms(t).T

    def _terms(self, t: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(t, float) ** power for power in self.powers], axis=-1)


def fit_polynomial(points: Sequence[Point], t: np.ndarray, *, offset: bool) -> Polynomial:
    """The shortest polynomial that agrees with the points within their errors.

    ``t`` is the varying part of s(n) at each point; ``offset`` allows a constant term.
    Terms are added while they bring χ² down by more than four each. Raises ``ValueError`` without points.
    """
    if not points:
        raise ValueError("no points to draw a curve through")
    y = np.array([point.log_ratio for point in points])
    sigma = np.maximum([point.standard_error for point in points], MISFIT_FLOOR * np.abs(y) + 1e-300)
    first = 0 if offset else 1
    best: Polynomial | None = None
    extra = 1 if offset else 0
    fewest = FEWEST_TERMS + extra if len(points) > FEWEST_TERMS + extra else 1
    for terms in range(fewest, min(MOST_TERMS + extra, len(points)) + 1):
        curve = _solve(t, y, sigma, tuple(range(first, first + terms)))
        if best is None or curve.chi_squared < best.chi_squared - 4:
            best = curve
    assert best is not None
    return best


def _solve(t: np.ndarray, y: np.ndarray, sigma: np.ndarray, powers: tuple[int, ...]) -> Polynomial:
    """Weighted least squares with columns scaled to one, so that high powers of a small t stay well conditioned."""
    design = np.stack([t**power for power in powers], axis=-1) / sigma[:, None]
    scale = np.linalg.norm(design, axis=0)
    u, singular, vt = np.linalg.svd(design / scale, full_matrices=False)
    coefficients = vt.T @ ((u.T @ (y / sigma)) / singular) / scale
    chi_squared = float(np.sum((design @ coefficients - y / sigma) ** 2))
    degrees = len(t) - len(powers)
    widen = max(1.0, chi_squared / degrees) if degrees > 0 else 1.0
    root = (vt.T / singular) / scale[:, None] * widen**0.5
    return Polynomial(powers, coefficients, root, chi_squared, degrees)


def constant_sum(network: Network) -> float:
    """The part of s(n) that no free width enters, such as 1 / n_in of a residual block."""
    return network.inverse_fan_in_sum((2**62,) * len(network.baseline))


def varying_sums(network: Network, widths: np.ndarray) -> np.ndarray:
    """The part of s(n) that vanishes as the free widths grow, at ``widths`` of shape (members, free widths).

    Every free width enters it as a multiple of 1 / n_i.
    """
    size, endless, some = len(network.baseline), 2**62, 4096
    constant = constant_sum(network)
    shares = [
        network.inverse_fan_in_sum([some if index == at else endless for index in range(size)]) - constant
        for at in range(size)
    ]
    return (some * np.array(shares) / np.asarray(widths, float)).sum(axis=1)
