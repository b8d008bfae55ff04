"""The primal and the dual problem over a set of members (Littwin et al. 2020, Eq. 10–14).

Counts are the whole network's and affine in the multiplicity, so both problems are solved in closed form for every
member at once: first with a real multiplicity, which decides n*, then with the integer to build (Algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collegium.search.networks.network import Measure, Network
from collegium.search.result import CurveRow, SolvedEnsemble

#: Most by which rounding m may violate the constraint it comes from: the budget, or the baseline's variance.
VIOLATION = 0.025
#: Loss by rounding m at n* from which the best integer ensemble is sought among all members.
ROUNDING_LOSS = 0.05
#: Members with a larger ln r (r = 5·10⁸) are not considered: they are of no use, and their variances overflow.
LARGEST_LOG_RATIO = 20.0
#: Largest multiplicity that is reported.
MOST_MEMBERS = 10**9


@dataclass(frozen=True)
class Constraints:
    """The two constraints: the budget of the primal, in the measure of cost, and the variance of the dual."""

    network: Network
    measure: Measure
    budget: int
    baseline_variance: float
    max_multiplicity: int | None = None

    @property
    def most(self) -> int:
        """The largest multiplicity allowed."""
        return min(self.max_multiplicity or MOST_MEMBERS, MOST_MEMBERS)

    @cached_property
    def baseline_count(self) -> int:
        """The baseline's own count, the numerator of ρ (Eq. 8)."""
        return self.network.count(self.measure, self.network.baseline, self.network.multiplicity)


@dataclass(frozen=True)
class Solved:
    """Both problems over the same members; arrays have one entry per member, NaN where a side has no ensemble.

    ``primal_real`` is m of Eq. 12, at most the largest allowed, and ``dual_real`` m of Eq. 14; ``primal_integer`` and
    ``dual_integer`` are what is built.
    """

    constraints: Constraints
    widths: tuple[tuple[int, ...], ...]
    log_ratio: np.ndarray
    fixed: np.ndarray
    per_member: np.ndarray
    primal_real: np.ndarray
    primal_integer: np.ndarray
    dual_real: np.ndarray
    dual_integer: np.ndarray

    @cached_property
    def variance(self) -> np.ndarray:
        """Relative variance of one member, r − 1."""
        return np.expm1(self.log_ratio)

    @cached_property
    def primal_variance(self) -> np.ndarray:
        """The primal objective, Var / m at the real m."""
        return self.variance / self.primal_real

    @cached_property
    def dual_count(self) -> np.ndarray:
        """The dual's cost at the real m (no less than one member); NaN where the integer is not allowed."""
        count = self.fixed + np.maximum(1.0, self.dual_real) * self.per_member
        return np.where(np.isnan(self.dual_integer), np.nan, count)

    @property
    def primal_optimum(self) -> int | None:
        """Index of n*, the smoothest member at the budget with a real m; None where no member fits it."""
        return _lowest(self.primal_variance)

    @property
    def dual_optimum(self) -> int | None:
        """Index of n*, the most compact member at the baseline's variance with a real m; None where none reaches it."""
        return _lowest(self.dual_count)

    @property
    def optimum(self) -> int | None:
        """Index of n*: the primal's, or the dual's where no member fits the budget."""
        return self.dual_optimum if self.primal_optimum is None else self.primal_optimum

    @property
    def primal(self) -> int | None:
        """Index of the ensemble to build at the budget.

        That is n*, or the best integer ensemble where rounding at n* costs over 5 % or all that was gained.
        """
        built, bound = self.variance / self.primal_integer, self.constraints.baseline_variance
        return _built(self.primal_optimum, self.primal_variance, built, bound)

    @property
    def dual(self) -> int | None:
        """Index of the ensemble to build at the baseline's variance; see ``primal``."""
        built, bound = self.fixed + self.dual_integer * self.per_member, self.constraints.baseline_count
        return _built(self.dual_optimum, self.dual_count, built, bound)

    @cached_property
    def objective(self) -> np.ndarray:
        """The primal objective relative to its optimum (the dual's, where no member fits the budget); 1 at n*."""
        if self.primal_optimum is not None:
            return self.primal_variance / self.primal_variance[self.primal_optimum]
        if self.dual_optimum is not None:
            return self.dual_count / self.dual_count[self.dual_optimum]
        return np.full(len(self.widths), np.nan)

    @cached_property
    def integer_objective(self) -> np.ndarray:
        """The objective of the integer ensembles, relative to the same optimum."""
        if self.primal_optimum is not None:
            return self.variance / self.primal_integer / self.primal_variance[self.primal_optimum]
        if self.dual_optimum is not None:
            return (self.fixed + self.dual_integer * self.per_member) / self.dual_count[self.dual_optimum]
        return np.full(len(self.widths), np.nan)

    def primal_ensemble(self, index: int | None) -> SolvedEnsemble | None:
        """The integer ensemble of one member at the budget."""
        return None if index is None else self._answer(index, self.primal_integer[index], self.primal_real[index])

    def dual_ensemble(self, index: int | None) -> SolvedEnsemble | None:
        """The integer ensemble of one member at the baseline's variance."""
        return None if index is None else self._answer(index, self.dual_integer[index], self.dual_real[index])

    def row(self, index: int) -> CurveRow:
        """One row of the curve."""
        primal, dual = self.primal_ensemble(index), self.dual_ensemble(index)
        return CurveRow(
            widths=self.widths[index],
            inverse_fan_in_sum=self.constraints.network.inverse_fan_in_sum(self.widths[index]),
            variance=float(self.variance[index]),
            objective=_number(self.objective[index]),
            primal_multiplicity=None if primal is None else primal.multiplicity,
            primal_multiplicity_real=_number(self.primal_real[index]),
            primal_variance=_number(self.primal_variance[index]),
            primal_parameters=None if primal is None else primal.parameters,
            dual_multiplicity=None if dual is None else dual.multiplicity,
            dual_multiplicity_real=_number(self.dual_real[index]),
            dual_variance=None if dual is None else dual.variance,
            dual_parameters=None if dual is None else dual.parameters,
            dual_flops=None if dual is None else dual.flops,
            dual_efficiency=None if dual is None else dual.efficiency,
            dual_efficiency_real=_number(self.constraints.baseline_count / self.dual_count[index]),
        )

    def _answer(self, index: int, multiplicity: float, real: float) -> SolvedEnsemble | None:
        if math.isnan(multiplicity):
            return None
        network, widths, m = self.constraints.network, self.widths[index], int(multiplicity)
        return SolvedEnsemble(
            widths=widths,
            multiplicity=m,
            multiplicity_real=float(real),
            variance=float(self.variance[index]) / m,
            parameters=network.count("parameters", widths, m),
            flops=network.count("flops", widths, m),
            efficiency=self.constraints.baseline_count / network.count(self.constraints.measure, widths, m),
        )


def solve(constraints: Constraints, widths: Sequence[tuple[int, ...]], log_ratio: np.ndarray) -> Solved:
    """Solve both problems for every member of ``widths``; ``log_ratio`` is ln r of each, shape (members,).

    Members whose ln r is beyond ``LARGEST_LOG_RATIO`` are left out.
    """
    log_ratio = np.asarray(log_ratio, float)
    keep = np.flatnonzero(log_ratio <= LARGEST_LOG_RATIO).tolist()
    kept = tuple(tuple(widths[index]) for index in keep)
    affine = np.array([constraints.network.affine(constraints.measure, member) for member in kept], float).reshape(
        -1, 2
    )
    fixed, per_member = affine[:, 0], affine[:, 1]
    primal_real = primal_multiplicity(constraints, fixed, per_member)
    dual_real = np.expm1(log_ratio[keep]) / constraints.baseline_variance
    return Solved(
        constraints=constraints,
        widths=kept,
        log_ratio=log_ratio[keep],
        fixed=fixed,
        per_member=per_member,
        primal_real=primal_real,
        primal_integer=_primal_integer(constraints, primal_real, fixed, per_member),
        dual_real=dual_real,
        dual_integer=_dual_integer(constraints, dual_real),
    )


def primal_multiplicity(constraints: Constraints, fixed: np.ndarray | float, per_member: np.ndarray) -> np.ndarray:
    """The real m of Eq. 12 on the whole network, fixed + m · per_member = budget, at most the largest allowed.

    NaN where not even one member fits the budget, within the tolerance of rounding.
    """
    fits = fixed + per_member <= (1 + VIOLATION) * constraints.budget
    return np.where(fits, np.minimum((constraints.budget - fixed) / per_member, constraints.most), np.nan)


def _primal_integer(
    constraints: Constraints, real: np.ndarray, fixed: np.ndarray, per_member: np.ndarray
) -> np.ndarray:
    """The nearest integer; rounded down where rounding up exceeds the budget by more than 2.5 %."""
    nearest = np.round(real)
    over = fixed + nearest * per_member > (1 + VIOLATION) * constraints.budget
    return np.maximum(1.0, np.where(over, np.floor(real), nearest))


def _dual_integer(constraints: Constraints, real: np.ndarray) -> np.ndarray:
    """The nearest integer; rounded up where rounding down exceeds the baseline's variance by more than 2.5 %.

    Some networks always take the nearest one (``Network.nearest_dual_as_published``). NaN beyond the largest m allowed.
    """
    nearest = np.maximum(1.0, np.round(real))
    if not constraints.network.nearest_dual_as_published:
        nearest = np.where(real > (1 + VIOLATION) * nearest, np.ceil(real), nearest)
    return np.where(nearest <= constraints.most, nearest, np.nan)


def _built(optimum: int | None, real: np.ndarray, integer: np.ndarray, bound: float) -> int | None:
    if optimum is None or integer[optimum] <= min((1 + ROUNDING_LOSS) * real[optimum], bound):
        return optimum
    return _lowest(integer)


def _lowest(values: np.ndarray) -> int | None:
    return None if np.isnan(values).all() else int(np.nanargmin(values))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
