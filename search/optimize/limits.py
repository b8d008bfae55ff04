"""What an ensemble may cost and how much its kernel may vary: the constraints of the primal and of the dual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from collegium.search.networks.network import Measure, Network

#: Share by which the nearest integer m may exceed the baseline's own cost, and the dual the baseline's variance.
ROUNDING_TOLERANCE = 0.025
#: Largest multiplicity that is reported.
MOST_MEMBERS = 10**9


@dataclass(frozen=True)
class Limit:
    """At most ``most`` of a measure. A limit that a user gave is hard: its ``tolerance`` is 0.

    The baseline's own cost, which stands in for a budget that was not given, may be exceeded by the share
    ``tolerance`` where m is rounded up, as Littwin et al. 2020 round it. ``field`` is the specification's.
    """

    measure: Measure
    most: float
    tolerance: float = 0.0
    field: str = "budget"

    @property
    def bound(self) -> float:
        """The largest cost that is accepted."""
        return self.most * (1 + self.tolerance)


class MemberCosts(Protocol):
    """The whole network's cost in one measure with m members of each of several widths, arrays of shape (members,)."""

    def at(self, multiplicity: np.ndarray | float) -> np.ndarray:
        """The cost of so many members."""
        ...

    def solve(self, cost: float) -> np.ndarray:
        """The real m that costs ``cost``; below 1, also negative, where a single member costs more."""
        ...


@dataclass(frozen=True)
class AffineCosts:
    """``fixed + m · per_member``, exact counts."""

    fixed: np.ndarray | float
    per_member: np.ndarray

    @classmethod
    def of(cls, network: Network, measure: Measure, widths: Sequence[tuple[int, ...]]) -> AffineCosts:
        """The counts of every member of ``widths``."""
        table = np.array(network.affine_costs(measure, tuple(widths)), float).reshape(-1, 2)
        return cls(table[:, 0], table[:, 1])

    def at(self, multiplicity: np.ndarray | float) -> np.ndarray:
        """The count of so many members."""
        return self.fixed + multiplicity * self.per_member

    def solve(self, cost: float) -> np.ndarray:
        """m of ``fixed + m · per_member = cost``."""
        return (cost - self.fixed) / self.per_member


@dataclass(frozen=True)
class Constraints:
    """The limits of the primal, and the baseline's variance, which the dual keeps in every stage.

    ``limits`` holds the budget first; the others apply to primal and dual alike. ``baseline_variances`` is Var(K_ñ) / m
    of every stage's module, whose widths are multiplied by ``scales``. ``baseline_allowed``: whether the space holds
    the baseline itself. ``nearest_dual``: whether the dual's m is rounded to the nearest integer whatever the variance
    (Littwin et al. 2020, for a given α).
    """

    network: Network
    measure: Measure
    limits: tuple[Limit, ...]
    baseline_variances: tuple[float, ...]
    scales: tuple[int, ...] = (1,)
    max_multiplicity: int | None = None
    baseline_allowed: bool = True
    nearest_dual: bool = False

    @property
    def budget(self) -> Limit:
        """The limit that the primal spends."""
        return self.limits[0]

    @property
    def baseline_variance(self) -> float:
        """Var(K_ñ) / m of the first stage's module."""
        return self.baseline_variances[0]

    @property
    def most(self) -> int:
        """The largest multiplicity allowed."""
        return min(self.max_multiplicity or MOST_MEMBERS, MOST_MEMBERS)

    @property
    def rounds(self) -> bool:
        """Whether the budget has a tolerance for rounding m; a user's own has none."""
        return self.budget.tolerance > 0

    @cached_property
    def baseline_count(self) -> float:
        """The baseline's own cost, the numerator of ρ (Eq. 8)."""
        return self.network.count(self.measure, self.network.baseline, self.network.multiplicity)

    def baseline_fits(self, limits: Sequence[Limit]) -> bool:
        """Whether the baseline itself is allowed and within ``limits``."""
        network = self.network
        return self.baseline_allowed and all(
            network.count(limit.measure, network.baseline, network.multiplicity) <= limit.bound for limit in limits
        )

    def real_multiplicity(self, costs: Mapping[Measure, MemberCosts]) -> np.ndarray:
        """The real m of Eq. 12 on the whole network, at most the largest allowed, whatever it is."""
        reals = [costs[limit.measure].solve(limit.most) for limit in self.limits]
        return np.minimum(np.minimum.reduce(reals), self.most)

    def largest_multiplicity(self, costs: Mapping[Measure, MemberCosts]) -> np.ndarray:
        """The largest integer m within every limit and its tolerance; NaN where that is none."""
        reals = [costs[limit.measure].solve(limit.bound) for limit in self.limits]
        largest = np.floor(np.minimum(np.minimum.reduce(reals), self.most))
        return np.where(self.fits(costs, np.maximum(largest, 1.0), self.limits), np.maximum(largest, 1.0), np.nan)

    def fits(
        self, costs: Mapping[Measure, MemberCosts], multiplicity: np.ndarray, limits: Sequence[Limit]
    ) -> np.ndarray:
        """Whether so many members are allowed and cost no more than ``limits``, shape (members,)."""
        fits = multiplicity <= self.most
        for limit in limits:
            fits = fits & (costs[limit.measure].at(multiplicity) <= limit.bound)
        return fits
