"""A smooth curve through sampled points: r − 1 as a polynomial in t, the part of s(n) that varies with the width.

The line of Eq. 9 (Littwin et al. 2020) bends at small widths, where the optimum often lies. Along tied widths
r − 1 = Σ_k c_k t^k with c_k ≥ 0 and a power for each free layer, exactly where the chain is dense above its first
layer. There is no constant term, r → 1 as the widths grow, unless a hidden layer of fixed width keeps some variance.
Where weights are shared the points may ask for a concave part, which terms t / (t + τ) add. Either way the curve rises
with t and is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.nonnegative import RESOLUTION, fit_nonnegative, refits
from collegium.search.networks.chain import Free
from collegium.search.networks.network import Network

#: Most powers of t: those of deeper networks are hard to tell apart.
MOST_POWERS = 24
#: τ of the concave terms, relative to the largest t; that of 0 is a constant.
CONCAVE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
#: Relative misfit of ln r that is of no account.
MISFIT_FLOOR = 2e-3
#: χ² that a further term has to bring.
WORTH = 4.0
#: Refits to redrawn points, for the error.
REFITS = 200


@dataclass(frozen=True)
class Increasing:
    """ln r(t) = ln(1 + Σ_k coefficient_k · term_k(t)), of terms that rise with t and coefficients ≥ 0.

    ``largest`` is the t that the terms are relative to; ``refits`` are coefficients of fits to redrawn points.
    """

    powers: tuple[int, ...]
    concave: tuple[float, ...]
    largest: float
    coefficients: np.ndarray
    refits: np.ndarray
    chi_squared: float
    degrees: int

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """ln r at every t, shape of ``t``."""
        return np.log1p(_terms(np.asarray(t, float) / self.largest, self.powers, self.concave) @ self.coefficients)

    def standard_error(self, t: np.ndarray) -> np.ndarray:
        """Standard error of ln r at every t."""
        return self._refitted(t).std(axis=0)

    def redraw(self, t: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """``draws`` curves within the fit's error, shape (draws, len(t)); each is monotone."""
        return self._refitted(t)[generator.integers(len(self.refits), size=draws)]

    def _refitted(self, t: np.ndarray) -> np.ndarray:
        return np.log1p(self.refits @ _terms(np.asarray(t, float) / self.largest, self.powers, self.concave).T)


def fit_increasing(points: Sequence[Point], t: np.ndarray, *, degree: int, offset: bool, seed: int = 0) -> Increasing:
    """The monotone curve that agrees best with the points, each weighted by its error of ln r.

    ``t`` is the varying part of s(n) at each point, ``degree`` the highest power; ``offset`` allows a constant term.
    Concave terms are taken where they bring χ² down by more than four each. Raises ``ValueError`` without points.
    """
    if not points:
        raise ValueError("no points to draw a curve through")
    y = np.array([point.log_ratio for point in points])
    sigma = np.maximum([point.standard_error for point in points], MISFIT_FLOOR * np.abs(y) + RESOLUTION)
    largest = float(np.max(t))
    powers = tuple(range(0 if offset else 1, min(max(degree, 1), MOST_POWERS) + 1))
    concave: tuple[float, ...] = ()
    design = _terms(t / largest, powers, concave)
    fitted = fit_nonnegative(design, y, sigma)
    richer = _terms(t / largest, powers, CONCAVE)
    bent = fit_nonnegative(richer, y, sigma)
    if bent.chi_squared < fitted.chi_squared - WORTH * max(1, bent.active - fitted.active):
        concave, design, fitted = CONCAVE, richer, bent
    degrees = max(0, len(points) - fitted.active)
    widened = sigma * max(1.0, fitted.chi_squared / degrees) ** 0.5 if degrees else sigma
    return Increasing(
        powers=powers,
        concave=concave,
        largest=largest,
        coefficients=fitted.coefficients,
        refits=refits(design, y, widened, fitted, seed, REFITS),
        chi_squared=fitted.chi_squared,
        degrees=degrees,
    )


def _terms(t: np.ndarray, powers: Sequence[int], concave: Sequence[float]) -> np.ndarray:
    """Terms at t relative to the largest, shape (len(t), terms)."""
    return np.stack([*(t**power for power in powers), *(t / (t + tau) for tau in concave)], axis=-1)


def free_layers(network: Network) -> int:
    """Hidden layers of free width: the degree of r − 1 in the inverse widths."""
    return sum(isinstance(layer.out, Free) for layer in network.chain.layers[:-1])


def keeps_variance(network: Network) -> bool:
    """Whether a hidden layer of fixed width keeps some variance as the free widths grow."""
    return free_layers(network) < len(network.chain.layers) - 1


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
