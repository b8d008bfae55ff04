"""Moments of kernel entries over initializations, with errors that respect what one initialization shares.

Entries of one initialization, at several inputs and logits, are dependent; initializations are not. So every standard
error is that of a mean over initializations of an estimate's influence, whatever is measured for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from collegium.search.whole_network.result import LEVELS, GramSummary, Spread

#: Largest condition number that Gram matrices of single-precision gradients can show.
WORST_CONDITION = 1e6
#: Least share of a ratio's squared error that draws with common parameters leave.
LEAST_UNSHARED = 0.05
#: Initializations that every network has before its error is believed.
FEWEST_DRAWS = 64


@dataclass(frozen=True)
class RelativeVariance:
    """Var(K) / E[K]² of one diagonal entry, averaged over inputs, from ``draws`` initializations.

    ``standard_error`` is NaN below two draws. ``within`` is the part that logits of one network do not share, NaN for
    one logit. ``influences``, one for each draw, are those of the variance, and ``indices`` name the draws.
    """

    draws: int
    mean: float
    value: float
    standard_error: float
    within: float
    influences: np.ndarray = field(repr=False)
    indices: np.ndarray = field(repr=False)

    @property
    def relative_error(self) -> float:
        """Standard error over the variance: infinite where too few draws were made, 0 for a constant kernel."""
        if self.draws < FEWEST_DRAWS:
            return math.inf
        if self.standard_error == 0:
            return 0.0
        return self.standard_error / self.value if self.value > 0 else math.inf


def relative_variance(entries: np.ndarray, indices: np.ndarray | None = None) -> RelativeVariance:
    """From diagonal entries of shape ``(draws, outputs, inputs)``; ``indices`` of the draws, or 0, 1, 2, ….

    For each input, v = E[K²] / E[K]² − 1, where E[K]² is estimated without bias as k̄² − Var(k̄). The influence of an
    initialization with means k, s of K and K² is (s − s̄) / k̄² − 2 s̄ (k − k̄) / k̄³. Below ``FEWEST_DRAWS`` the
    influences' own spread is not known, and the error is at least that of one Gaussian entry, v √(2 / (draws − 1)).
    """
    draws, outputs, _ = entries.shape
    indices = np.arange(draws) if indices is None else indices
    k, s = entries.mean(1), np.square(entries).mean(1)
    k_mean, s_mean = k.mean(0), s.mean(0)
    if draws < 2:
        return RelativeVariance(draws, float(k_mean.mean()), 0.0, math.nan, math.nan, np.zeros(draws), indices)
    squared_mean = k_mean**2 - k.var(0, ddof=1) / draws
    value = float((s_mean / squared_mean - 1).mean())
    influence = ((s - s_mean) / k_mean**2 - 2 * s_mean * (k - k_mean) / k_mean**3).mean(1)
    within = float((entries.var(1, ddof=1).mean(0) / squared_mean).mean()) if outputs > 1 else math.nan
    error = float(influence.std(ddof=1)) / math.sqrt(draws)
    if draws < FEWEST_DRAWS:
        error = max(error, abs(value) * math.sqrt(2 / (draws - 1)))
    return RelativeVariance(draws, float(k_mean.mean()), value, error, within, influence, indices)


def ratio(variance: RelativeVariance, baseline: RelativeVariance) -> tuple[float, float] | None:
    """``variance / baseline`` and its standard error; None where the baseline's is zero.

    Draws of the same index share parameters, so that the error is that of the difference of both relative errors.
    """
    if not baseline.value > 0:
        return None
    found = variance.value / baseline.value
    squared = variance.standard_error**2 + (found * baseline.standard_error) ** 2
    shared = found * _covariance(variance, baseline)
    error = math.sqrt(max(squared - 2 * shared, LEAST_UNSHARED * squared)) / baseline.value
    return (found, error) if math.isfinite(error) else None


def _covariance(left: RelativeVariance, right: RelativeVariance) -> float:
    """Covariance of two estimates that have draws in common; 0 for few, whose own spread is not known."""
    _, here, there = np.intersect1d(left.indices, right.indices, assume_unique=True, return_indices=True)
    if len(here) < FEWEST_DRAWS:
        return 0.0
    one, other = left.influences[here], right.influences[there]
    return float(np.cov(one, other)[0, 1]) * len(here) / (left.draws * right.draws)


def summarize_grams(grams: np.ndarray) -> GramSummary:
    """The spread over initializations of Gram matrices of shape ``(draws, outputs, inputs, inputs)``."""
    averaged = grams.mean(1)
    eigenvalues = np.linalg.eigvalsh(averaged)
    largest = eigenvalues[:, -1]
    least = np.maximum(eigenvalues[:, 0], largest / WORST_CONDITION)
    condition = np.divide(largest, least, out=np.full_like(largest, WORST_CONDITION), where=least > 0)
    return GramSummary(
        inputs=grams.shape[-1],
        trace=_spread(np.trace(averaged, axis1=1, axis2=2)),
        largest_eigenvalue=_spread(largest),
        condition_number=_spread(condition),
    )


def _spread(values: np.ndarray) -> Spread:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    quantiles = tuple(float(value) for value in np.quantile(values, LEVELS))
    return Spread(mean=float(values.mean()), standard_deviation=deviation, quantiles=quantiles)
