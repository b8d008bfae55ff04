"""Where a curve's variances come from: ln r of many members at once, and its redrawing within the error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.smooth import Polynomial, constant_sum, varying_sums
from collegium.search.kernel.closed_form import log_moment_ratios
from collegium.search.kernel.inputs import Gram
from collegium.search.networks.network import Network

Source = Literal["closed_form", "smooth", "sampled", "alpha"]


class LogRatios(Protocol):
    """ln r of members, (members, free widths) → (members,); infinite where it is not known."""

    @property
    def source(self) -> Source:
        """What the curve is drawn from."""
        ...

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r of every member."""
        ...

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray | None:
        """``draws`` curves within the error, shape (draws, members); None where there is no error."""
        ...


@dataclass(frozen=True)
class Exact:
    """The closed form, at the inputs' Gram matrix (P × P over the unit's receptive field)."""

    network: Network
    gram: Gram
    source: Source = "closed_form"

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r, exact."""
        return log_moment_ratios(self.network.chain, widths, self.gram)

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> None:
        """None: the closed form has no error."""
        return


@dataclass(frozen=True)
class GivenAlpha:
    """ln r = α·s(n) (Littwin et al. 2020, Eq. 9), constant fan-in terms kept."""

    network: Network
    alpha: float
    source: Source = "alpha"

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r by the line."""
        return self.alpha * (constant_sum(self.network) + varying_sums(self.network, widths))

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> None:
        """None: a given α has no known error."""
        return


@dataclass(frozen=True)
class Smooth:
    """A smooth fit through sampled points; unknown where the widths are narrower than all that were sampled."""

    network: Network
    curve: Polynomial
    largest: float
    source: Source = "smooth"

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r by the fit, at least 10⁻¹²; infinite beyond the sampled range."""
        t = varying_sums(self.network, widths)
        return np.where(t <= self.largest * (1 + 1e-9), np.maximum(self.curve(t), 1e-12), np.inf)

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """Curves drawn from the fit's covariance."""
        return self.curve.redraw(varying_sums(self.network, widths), generator, draws)


@dataclass(frozen=True)
class Sampled:
    """ln r at exactly the members that were sampled, each with its own error."""

    log_ratio: dict[tuple[int, ...], float]
    standard_error: dict[tuple[int, ...], float]
    source: Source = "sampled"

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r as estimated; infinite for members that were not sampled."""
        return np.array([max(self.log_ratio.get(member, np.inf), 1e-12) for member in _members(widths)])

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """Independent normal errors."""
        errors = np.array([self.standard_error.get(member, 0.0) for member in _members(widths)])
        return self(widths) + errors * generator.standard_normal((draws, len(errors)))


@dataclass(frozen=True)
class Curve:
    """ln r of a grouping problem, the points behind it, and the members at which it is known."""

    log_ratios: LogRatios
    points: tuple[Point, ...]
    members: tuple[tuple[int, ...], ...]


def _members(widths: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(width) for width in member) for member in widths]
