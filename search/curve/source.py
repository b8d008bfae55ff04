"""Where a curve's variances come from: ln r of many members at once, and its redrawing within the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.monotone import falling, falling_draws
from collegium.search.curve.polynomial import Polynomial
from collegium.search.curve.smooth import Increasing, constant_sum, varying_sums
from collegium.search.kernel.closed_form import log_moment_ratios
from collegium.search.kernel.inputs import Gram
from collegium.search.networks.network import Network

#: Relative slack of the sampled range, for rounding.
SLACK = 1e-9

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
    """A smooth fit through sampled points; unknown outside the widths that were sampled, narrower or wider.

    It is monotone where theory says that ln r is, which is where every activation is positively homogeneous.

    ``smallest`` and ``largest`` bound the varying part of s(n).
    """

    network: Network
    curve: Increasing | Polynomial
    smallest: float
    largest: float
    source: Source = "smooth"

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r by the fit; infinite beyond the sampled range."""
        t = varying_sums(self.network, widths)
        known = (t >= self.smallest * (1 - SLACK)) & (t <= self.largest * (1 + SLACK))
        return np.where(known, self.curve(t), np.inf)

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """Curves drawn from the fit's error, each monotone where the fit is."""
        return self.curve.redraw(varying_sums(self.network, widths), generator, draws)


@dataclass(frozen=True)
class Sampled:
    """ln r at exactly the members that were sampled, each with its own error.

    As estimated; where theory says that ln r falls with every width, the nearest values that do.
    """

    log_ratio: dict[tuple[int, ...], float]
    standard_error: dict[tuple[int, ...], float]
    falls: bool = False
    source: Source = "sampled"

    @classmethod
    def at(cls, points: Sequence[Point], *, falls: bool = False) -> Self:
        """The points that have converged; ``falls``: ln r is known to fall with every width."""
        known = {point.widths: point for point in points if point.converged}
        value = np.array([point.log_ratio for point in known.values()])
        error = np.array([point.standard_error for point in known.values()])
        if falls and len(known):
            value = falling(np.array(list(known)), value, error)
        return cls(dict(zip(known, value.tolist(), strict=True)), dict(zip(known, error.tolist(), strict=True)), falls)

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """ln r; infinite for members that were not sampled, or have not converged."""
        return np.array([self.log_ratio.get(member, np.inf) for member in _members(widths)])

    def redraw(self, widths: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
        """Independent errors of distinct members, log-normal: none is negative.

        Where ln r falls, so does every draw, if all members can be ordered from the narrowest to the widest.
        """
        members, place = np.unique(widths, axis=0, return_inverse=True)
        values = self(members)
        errors = np.array([self.standard_error.get(member, 0.0) for member in _members(members)])
        known = np.isfinite(values) & (values > 0)
        relative = np.divide(errors, values, out=np.zeros_like(values), where=known)
        drawn = values * np.exp(relative * generator.standard_normal((draws, len(errors))) - relative**2 / 2)
        if self.falls:
            drawn[:, known] = falling_draws(members[known], drawn[:, known], errors[known])
        return drawn[:, place.reshape(-1)]


@dataclass(frozen=True)
class Curve:
    """ln r of a grouping problem, the points behind it, and the members at which it is known.

    Points that have not converged are among them, but nothing rests on them.
    """

    log_ratios: LogRatios
    points: tuple[Point, ...]
    members: tuple[tuple[int, ...], ...]


def _members(widths: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(width) for width in member) for member in widths]
