"""Least squares of ln r with non-negative coefficients: curves that are monotone and never negative, by construction.

r − 1 of a chain is a polynomial of inverse widths with non-negative coefficients, so ln r falls as widths grow. Fitting
r − 1 with c ≥ 0 keeps that whatever the noise. The misfit is measured in ln r, whose error is about symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear, nnls

#: Least standard error of ln r, which no kernel's samples resolve further.
RESOLUTION = 1e-9
#: Most Gauss–Newton steps, and the relative gain in χ² that ends them.
STEPS, GAIN = 40, 1e-6
#: Fractions of a step that are tried, until one lowers χ².
FRACTIONS = (1.0, 0.5, 0.2, 0.05)
#: Most that ln r moves in one step, down and up.
LOWEST_MOVE, HIGHEST_MOVE = -0.9, 3.0


@dataclass(frozen=True)
class NonNegative:
    """Coefficients c ≥ 0 of r − 1 = design · c, and χ² of ln r at the points."""

    coefficients: np.ndarray
    chi_squared: float

    @property
    def active(self) -> int:
        """How many coefficients are not zero."""
        return int((self.coefficients > 0).sum())


def fit_nonnegative(
    design: np.ndarray, log_ratio: np.ndarray, sigma: np.ndarray, start: np.ndarray | None = None
) -> NonNegative:
    """Minimise χ² = Σ ((ln(1 + design · c) − ln r) / σ)² over c ≥ 0, by Gauss–Newton steps that keep the bound.

    ``design`` has shape (points, terms) and is not negative; ``start`` are coefficients to begin with.
    """
    best = None if start is None else NonNegative(start, _chi_squared(design, start, log_ratio, sigma))
    value = np.expm1(log_ratio) if best is None else design @ best.coefficients
    for _ in range(STEPS):
        move = np.clip(log_ratio - np.log1p(value), LOWEST_MOVE, HIGHEST_MOVE)
        weight = 1 / ((1 + value) * sigma)
        wanted = _nonnegative(design * weight[:, None], (value + (1 + value) * move) * weight)
        found = _along(design, wanted, best, log_ratio, sigma)
        if best is not None and not found.chi_squared < best.chi_squared * (1 - GAIN):
            break
        best, value = found, design @ found.coefficients
    assert best is not None
    return best


def refits(
    design: np.ndarray, log_ratio: np.ndarray, sigma: np.ndarray, fitted: NonNegative, seed: int, count: int
) -> np.ndarray:
    """Coefficients of fits to points redrawn within their errors, shape (count, terms); each obeys c ≥ 0 as well."""
    noise = sigma * np.random.default_rng(seed).standard_normal((count, len(log_ratio)))
    redrawn = np.maximum(log_ratio + noise, 0.0)
    return np.stack([fit_nonnegative(design, row, sigma, fitted.coefficients).coefficients for row in redrawn])


def _along(
    design: np.ndarray, wanted: np.ndarray, best: NonNegative | None, log_ratio: np.ndarray, sigma: np.ndarray
) -> NonNegative:
    """The first fraction of the step that lowers χ²; the whole of the first step."""
    if best is None:
        return NonNegative(wanted, _chi_squared(design, wanted, log_ratio, sigma))
    for fraction in FRACTIONS:
        trial = best.coefficients + fraction * (wanted - best.coefficients)
        chi_squared = _chi_squared(design, trial, log_ratio, sigma)
        if chi_squared < best.chi_squared:
            return NonNegative(trial, chi_squared)
    return best


def _chi_squared(design: np.ndarray, coefficients: np.ndarray, log_ratio: np.ndarray, sigma: np.ndarray) -> float:
    return float(np.sum(((np.log1p(design @ coefficients) - log_ratio) / sigma) ** 2))


def _nonnegative(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Non-negative least squares with columns scaled to one, so that high powers stay well conditioned."""
    scale = np.maximum(np.linalg.norm(design, axis=0), 1e-300)
    try:
        solution = nnls(design / scale, target, maxiter=50 * design.shape[1])[0]
    except RuntimeError:  # its active set went round in a circle
        solution = np.maximum(lsq_linear(design / scale, target, bounds=(0, np.inf)).x, 0.0)
    return solution / scale
