"""ln r over width vectors, from samples: r − 1 as a polynomial of the inverse widths.

Every layer's units are independent and alike, so E[K²] sees each width only through how often two units are the same
one: r − 1 = Σ_S c_S Π_{l ∈ S} 1 / n_l over sets S of layers, with c_S ≥ 0. This is exact for chains that are dense
above their first layer (the closed form is such a polynomial), and close where weights are shared. It matters because
s(n) alone misleads over vectors: it takes the width that feeds a 3×3 layer for nine times less harmful than it is.
ln r falls as any width grows, so a vector is known where a sampled one is as wide in every width and another as narrow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.nonnegative import RESOLUTION, fit_nonnegative, refits
from collegium.search.curve.smooth import MOST_POWERS, keeps_variance
from collegium.search.curve.source import Source
from collegium.search.networks.chain import Free
from collegium.search.networks.network import Network

#: Most free widths for which every set of them has a coefficient; beyond, sets of one size share one.
MOST_SEPARATE = 6
#: Relative error of ln r below which a point gains no more weight.
LEAST_ERROR = 3e-3
#: Refits to redrawn points, for the error.
REFITS = 100


@dataclass(frozen=True)
class Surface:
    """The fitted polynomial through ``sampled`` width vectors, shape (points, free widths).

    It is known between the sampled vectors alone. ``outreaching`` extends that to where no width is narrower or wider
    than the narrowest and widest sampled, and ln r no larger than the ``largest`` sampled: to choose what to sample.
    """

    network: Network
    coefficients: np.ndarray
    refits: np.ndarray
    sampled: np.ndarray
    largest: float
    chi_squared: float
    degrees: int
    reaches_out: bool = False
    source: Source = "smooth"

    @property
    def narrowest(self) -> np.ndarray:
        """The narrowest sampled value of every width."""
        return self.sampled.min(axis=0)

    @property
    def outreaching(self) -> Surface:
        """The same surface over the whole box that the sampled vectors span."""
        return replace(self, reaches_out=True)

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r of every member; infinite where it is not known."""
        table = np.asarray(widths, float)
        value = np.log1p(_terms(self.network, table) @ self.coefficients)
        return np.where(self._known(table, value), value, np.inf)

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """ln r by refits to points redrawn within their errors, shape (draws, members); each falls with every width."""
        chosen = generator.integers(len(self.refits), size=draws)
        values = _terms(self.network, np.asarray(widths, float)) @ self.refits.T
        return np.log1p(values).T[chosen]

    def _known(self, table: np.ndarray, value: np.ndarray) -> np.ndarray:
        if self.reaches_out:
            widest = self.sampled.max(axis=0)
            return ((table >= self.narrowest) & (table <= widest)).all(axis=1) & (value <= self.largest)
        wider, narrower = (np.zeros(len(table), bool) for _ in range(2))
        for vector in self.sampled:
            wider |= (vector >= table).all(axis=1)
            narrower |= (vector <= table).all(axis=1)
        return wider & narrower


def fit_surface(network: Network, points: Sequence[Point], seed: int) -> Surface:
    """Non-negative least squares through the points, each weighted by its error of ln r."""
    widths = np.array([point.widths for point in points], float)
    log_ratio = np.array([point.log_ratio for point in points])
    sigma = np.maximum([point.standard_error for point in points], LEAST_ERROR * log_ratio + RESOLUTION)
    design = _terms(network, widths)
    fitted = fit_nonnegative(design, log_ratio, sigma)
    return Surface(
        network=network,
        coefficients=fitted.coefficients,
        refits=refits(design, log_ratio, sigma, fitted, seed, REFITS),
        sampled=widths,
        largest=float(log_ratio.max()),
        chi_squared=fitted.chi_squared,
        degrees=max(0, len(points) - fitted.active),
    )


def _terms(network: Network, widths: np.ndarray) -> np.ndarray:
    """Products of inverse widths over sets of layers, (members, terms); with fixed hidden layers, a constant too."""
    inverse = 1 / widths
    hidden = [layer.out for layer in network.chain.layers[:-1]]
    layers = [out.index for out in hidden if isinstance(out, Free)]
    columns = [np.ones(len(inverse))] if keeps_variance(network) else []
    if len(layers) <= MOST_SEPARATE:
        for order in range(1, len(layers) + 1):
            sets = sorted({tuple(sorted(chosen)) for chosen in itertools.combinations(layers, order)})
            columns += [inverse[:, list(chosen)].prod(axis=1) for chosen in sets]
    else:
        total = inverse[:, layers].sum(axis=1)
        columns += [inverse[:, index] for index in sorted(set(layers))]
        columns += [total**order for order in range(2, min(len(layers), MOST_POWERS) + 1)]
    return np.stack(columns, axis=1)
