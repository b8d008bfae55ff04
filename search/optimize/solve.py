"""The primal and the dual problem over a set of members (Littwin et al. 2020, Eq. 10–14).

Counts are the whole network's and affine in the multiplicity, so both problems are solved in closed form for every
member at once: first with a real multiplicity, which decides n*, then with the integer to build (Algorithm 2). What is
built of them is chosen in ``built``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collegium.search.networks.network import Measure
from collegium.search.optimize.limits import ROUNDING_TOLERANCE, AffineCosts, Constraints, MemberCosts
from collegium.search.optimize.variances import LARGEST_LOG_RATIO, MemberVariances

#: Loss by rounding m from which another integer is taken: for a member the next larger one where it fits, and among
#: members the best integer ensemble in the place of n*.
ROUNDING_LOSS = 0.05


@dataclass(frozen=True)
class Solved:
    """Both problems over the same members; arrays have one entry per member, NaN where a side has no ensemble.

    ``primal_real`` is m of Eq. 12, at most the largest allowed, and ``dual_real`` m of Eq. 14 for the worst stage;
    ``primal_integer`` and ``dual_integer`` are what is built. ``primal_largest`` is the largest integer within the
    limits and their tolerances.
    """

    constraints: Constraints
    widths: tuple[tuple[int, ...], ...]
    variances: MemberVariances
    costs: Mapping[Measure, MemberCosts]
    primal_real: np.ndarray
    primal_integer: np.ndarray
    primal_largest: np.ndarray
    dual_real: np.ndarray
    dual_integer: np.ndarray

    @property
    def log_ratio(self) -> np.ndarray:
        """ln r of one member in the first stage."""
        return self.variances.log_ratios[:, 0]

    @property
    def variance(self) -> np.ndarray:
        """Relative variance of one member in the first stage, r − 1."""
        return self.variances.first

    @property
    def cost(self) -> MemberCosts:
        """Costs in the measure asked for."""
        return self.costs[self.constraints.measure]

    @cached_property
    def primal_variance(self) -> np.ndarray:
        """Var / m of the first stage at the real m."""
        return self.variance / self.primal_real

    @cached_property
    def primal_worst(self) -> np.ndarray:
        """The primal objective: Var / m at the real m relative to the baseline's, in the worst stage."""
        return self.variances.worst / self.primal_real

    @cached_property
    def dual_count(self) -> np.ndarray:
        """The dual's cost at the real m (no less than one member); NaN where the integer is not allowed."""
        count = self.cost.at(np.maximum(1.0, self.dual_real))
        return np.where(np.isnan(self.dual_integer), np.nan, count)

    @property
    def primal_optimum(self) -> int | None:
        """Index of n*, the smoothest member at the budget with a real m; None where no member fits it."""
        return lowest(self.primal_worst)

    @property
    def dual_optimum(self) -> int | None:
        """Index of n*, the most compact member at the baseline's variance with a real m; None where none reaches it."""
        return lowest(self.dual_count)

    @property
    def optimum(self) -> int | None:
        """Index of n*: the primal's, or the dual's where no member fits the budget."""
        return self.dual_optimum if self.primal_optimum is None else self.primal_optimum

    @cached_property
    def objective(self) -> np.ndarray:
        """The primal objective relative to its optimum (the dual's, where no member fits the budget); 1 at n*."""
        if self.primal_optimum is not None:
            return self.primal_worst / self.primal_worst[self.primal_optimum]
        if self.dual_optimum is not None:
            return self.dual_count / self.dual_count[self.dual_optimum]
        return np.full(len(self.widths), np.nan)


def solve(
    constraints: Constraints,
    widths: Sequence[tuple[int, ...]],
    log_ratios: np.ndarray,
    costs: Mapping[Measure, MemberCosts] | None = None,
) -> Solved:
    """Solve both problems for every member of ``widths``.

    ``log_ratios`` is ln r of each in every stage, shape (members, stages), or (members,) where there is one stage.
    ``costs`` are those of the members in every measure that is limited or asked for; by default the exact counts.
    Members whose ln r is not known in some stage, or beyond ``LARGEST_LOG_RATIO``, are left out.
    """
    table = np.asarray(log_ratios, float).reshape(len(widths), len(constraints.baseline_variances))
    keep = np.flatnonzero((table <= LARGEST_LOG_RATIO).all(axis=1))
    kept = tuple(tuple(widths[index]) for index in keep.tolist())
    if costs is None:
        measures: set[Measure] = {constraints.measure, *(limit.measure for limit in constraints.limits)}
        costs = {measure: AffineCosts.of(constraints.network, measure, kept) for measure in sorted(measures)}
    variances = MemberVariances(table[keep], constraints.baseline_variances)
    real = constraints.real_multiplicity(costs)
    integer = _primal_integer(constraints, costs, real)
    return Solved(
        constraints=constraints,
        widths=kept,
        variances=variances,
        costs=costs,
        primal_real=np.where(np.isnan(integer), np.nan, real),
        primal_integer=integer,
        primal_largest=constraints.largest_multiplicity(costs),
        dual_real=variances.worst,
        dual_integer=dual_integer(constraints, costs, variances.worst),
    )


def _primal_integer(constraints: Constraints, costs: Mapping[Measure, MemberCosts], real: np.ndarray) -> np.ndarray:
    """The nearest integer within the limits; the one above where rounding down loses over 5 % and it still fits.

    Where a limit has no tolerance, no integer above the real m fits. NaN where not even one member does.
    """

    def fits(multiplicity: np.ndarray) -> np.ndarray:
        return constraints.fits(costs, multiplicity, constraints.limits)

    down, up = np.maximum(1.0, np.floor(real)), np.maximum(1.0, np.ceil(real))
    near = np.maximum(1.0, np.round(real))
    near = np.where(fits(near), near, down)
    chosen = np.where((real > (1 + ROUNDING_LOSS) * near) & fits(up), up, near)
    return np.where(fits(chosen), chosen, np.nan)


def dual_integer(constraints: Constraints, costs: Mapping[Measure, MemberCosts], real: np.ndarray) -> np.ndarray:
    """The nearest integer; rounded up where rounding down exceeds the baseline's variance by more than 2.5 %.

    A single member is no ensemble: it must have the baseline's variance or less, without that tolerance. NaN where m is
    larger than allowed, or costs more than a limit.
    """
    nearest = np.maximum(1.0, np.round(real))
    if not constraints.nearest_dual:
        nearest = np.where(real > (1 + ROUNDING_TOLERANCE) * nearest, np.ceil(real), nearest)
    nearest = np.where((nearest == 1) & (real > 1 + 1e-12), 2.0, nearest)
    return np.where(constraints.fits(costs, nearest, constraints.limits[1:]), nearest, np.nan)


def lowest(values: np.ndarray) -> int | None:
    """Index of the lowest value; None where all are NaN."""
    return None if np.isnan(values).all() else int(np.nanargmin(values))
