"""ln r over width vectors, from samples: r − 1 as a polynomial of the inverse widths.

Every layer's units are independent and alike, so E[K²] sees each width only through how often two units are the same
one: r − 1 = Σ_S c_S Π_{l ∈ S} 1 / n_l over sets S of layers, with c_S ≥ 0. This is exact for chains that are dense
above their first layer (the closed form is such a polynomial), and close where weights are shared. It matters because
s(n) alone misleads over vectors: it takes the width that feeds a 3×3 layer for nine times less harmful than it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from collegium.search.curve.fit import Point
from collegium.search.curve.source import Source
from collegium.search.networks.chain import Free
from collegium.search.networks.network import Network

#: Most free widths for which every set of two and three has a coefficient; beyond, sets of one size share one.
MOST_SEPARATE = 6
HIGHEST_ORDER = 3
#: Relative error of r − 1 below which a point gains no more weight.
LEAST_ERROR = 3e-3
#: Refits to redrawn points, for the error.
REFITS = 200


@dataclass(frozen=True)
class Surface:
    """The fitted polynomial; known where no width is below the narrowest sampled, nor ln r above the largest."""

    network: Network
    coefficients: np.ndarray
    refits: np.ndarray
    narrowest: np.ndarray
    largest: float
    chi_squared: float
    degrees: int
    source: Source = "smooth"

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r of every member; infinite outside the sampled range."""
        table = np.asarray(widths, float)
        value = np.log1p(np.maximum(_terms(self.network, table) @ self.coefficients, 1e-12))
        known = (table >= self.narrowest).all(axis=1) & (value <= self.largest)
        return np.where(known, value, np.inf)

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """ln r by refits to points redrawn within their errors, shape (draws, members)."""
        chosen = generator.integers(len(self.refits), size=draws)
        values = _terms(self.network, np.asarray(widths, float)) @ self.refits.T
        return np.log1p(np.maximum(values, 1e-12)).T[chosen]


def fit_surface(network: Network, points: Sequence[Point], seed: int) -> Surface:
    """Non-negative least squares through the points, each weighted by its error of r − 1."""
    widths = np.array([point.widths for point in points], float)
    log_ratio = np.array([point.log_ratio for point in points])
    value = np.expm1(np.maximum(log_ratio, 1e-12))
    error = np.exp(log_ratio) * np.minimum([point.standard_error for point in points], 10.0)
    sigma = np.maximum(error, LEAST_ERROR * value)
    design = _terms(network, widths) / sigma[:, None]
    scale = np.maximum(np.linalg.norm(design, axis=0), 1e-300)

    def fitted(target: np.ndarray) -> tuple[np.ndarray, float]:
        solution, residual = nnls(design / scale, target / sigma)
        return solution / scale, float(residual**2)

    coefficients, chi_squared = fitted(value)
    noise = np.random.default_rng(seed).standard_normal((REFITS, len(points)))
    refits = np.stack([fitted(np.maximum(value + sigma * row, 0))[0] for row in noise])
    return Surface(
        network=network,
        coefficients=coefficients,
        refits=refits,
        narrowest=widths.min(axis=0),
        largest=1.05 * float(log_ratio.max()),
        chi_squared=chi_squared,
        degrees=max(0, len(points) - int((coefficients > 0).sum())),
    )


def _terms(network: Network, widths: np.ndarray) -> np.ndarray:
    """Products of inverse widths over sets of layers, (members, terms); with fixed hidden layers, a constant too."""
    inverse = 1 / widths
    hidden = [layer.out for layer in network.chain.layers[:-1]]
    layers = [out.index for out in hidden if isinstance(out, Free)]
    columns = [np.ones(len(inverse))] if len(layers) < len(hidden) else []
    if len(layers) <= MOST_SEPARATE:
        for order in range(1, min(HIGHEST_ORDER, len(layers)) + 1):
            sets = sorted({tuple(sorted(chosen)) for chosen in itertools.combinations(layers, order)})
            columns += [inverse[:, list(chosen)].prod(axis=1) for chosen in sets]
    else:
        total = inverse[:, layers].sum(axis=1)
        columns += [inverse[:, index] for index in sorted(set(layers))]
        columns += [total**order for order in range(2, HIGHEST_ORDER + 1)]
    return np.stack(columns, axis=1)
