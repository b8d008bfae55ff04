"""The primal and the dual problem over a set of members (Littwin et al. 2020, Eq. 10–14).

Counts are the whole network's and affine in the multiplicity, so both problems are solved in closed form for every
member at once: first with a real multiplicity, which decides n*, then with the integer to build.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.network import Measure, Network
from search.result import Answer, CurveRow

#: Most that rounding m up may exceed the budget; beyond it m is rounded down.
OVERSHOOT = 0.025
#: Members with a larger ln r (r = 5·10⁸) are not considered: nobody builds them, and their figures overflow.
LARGEST_LOG_RATIO = 20.0
#: Largest multiplicity that is reported.
MOST_MEMBERS = 10**9


@dataclass(frozen=True)
class Question:
    """What is asked: the network, the measure of cost, the budget in that measure, and the variance to match."""

    network: Network
    measure: Measure
    budget: int
    baseline_variance: float
    max_multiplicity: int | None = None

    @property
    def most(self) -> int:
        """The largest multiplicity allowed."""
        return min(self.max_multiplicity or MOST_MEMBERS, MOST_MEMBERS)

    @property
    def baseline_count(self) -> int:
        """The baseline's own count, the numerator of ρ (Eq. 8)."""
        return self.network.count(self.measure, self.network.baseline, self.network.multiplicity)


@dataclass(frozen=True)
class Solved:
    """Both problems over the same members; arrays have one entry per member, NaN where a side has no ensemble.

    ``primal_real`` is m of Eq. 12 and ``dual_real`` m of Eq. 14. ``primal_variance`` is the primal objective at the
    real m, ``dual_efficiency`` the dual one. ``primal`` and ``dual`` are the optima's indices.
    """

    question: Question
    widths: tuple[tuple[int, ...], ...]
    log_ratio: np.ndarray
    fixed: np.ndarray
    per_member: np.ndarray
    primal_real: np.ndarray
    primal_variance: np.ndarray
    dual_real: np.ndarray
    dual_efficiency: np.ndarray

    @property
    def primal(self) -> int | None:
        """Index of the smoothest member at the budget; None where no member fits it."""
        return None if np.isnan(self.primal_variance).all() else int(np.nanargmin(self.primal_variance))

    @property
    def dual(self) -> int | None:
        """Index of the most compact member at the baseline's variance; None where none reaches it."""
        return None if np.isnan(self.dual_efficiency).all() else int(np.nanargmax(self.dual_efficiency))

    @property
    def objective(self) -> np.ndarray:
        """The primal objective relative to its optimum (the dual's, where no member fits the budget); 1 at n*."""
        if self.primal is not None:
            return self.primal_variance / self.primal_variance[self.primal]
        if self.dual is not None:
            return self.dual_efficiency[self.dual] / self.dual_efficiency
        return np.full(len(self.widths), np.nan)

    def primal_multiplicity(self, index: int) -> int | None:
        """The integer m nearest to the budget; rounded down where rounding up exceeds it by more than 2.5 %."""
        real = float(self.primal_real[index])
        if math.isnan(real):
            return None
        nearest = round(real)
        over = self.question.network.count(self.question.measure, self.widths[index], nearest)
        if over > (1 + OVERSHOOT) * self.question.budget:
            nearest = math.floor(real)
        return max(1, nearest)

    def dual_multiplicity(self, index: int) -> int | None:
        """The integer m nearest to the baseline's variance."""
        if math.isnan(self.dual_efficiency[index]):
            return None
        return max(1, round(float(self.dual_real[index])))

    def answer(self, index: int | None, side: str) -> Answer | None:
        """The integer ensemble of one side at one member."""
        if index is None:
            return None
        multiplicity = self.primal_multiplicity(index) if side == "primal" else self.dual_multiplicity(index)
        if multiplicity is None:
            return None
        real = self.primal_real if side == "primal" else self.dual_real
        network, widths = self.question.network, self.widths[index]
        return Answer(
            widths=widths,
            multiplicity=multiplicity,
            multiplicity_real=float(real[index]),
            variance=math.expm1(self.log_ratio[index]) / multiplicity,
            parameters=network.count("parameters", widths, multiplicity),
            flops=network.count("flops", widths, multiplicity),
            efficiency=self.question.baseline_count / network.count(self.question.measure, widths, multiplicity),
        )

    def row(self, index: int) -> CurveRow:
        """One row of the curve."""
        primal, dual = self.answer(index, "primal"), self.answer(index, "dual")
        variance = math.expm1(self.log_ratio[index])
        return CurveRow(
            widths=self.widths[index],
            inverse_fan_in_sum=self.question.network.inverse_fan_in_sum(self.widths[index]),
            variance=variance,
            objective=_number(self.objective[index]),
            primal_multiplicity=primal and primal.multiplicity,
            primal_multiplicity_real=_number(self.primal_real[index]),
            primal_variance=_number(self.primal_variance[index]),
            primal_parameters=primal and primal.parameters,
            dual_multiplicity=dual and dual.multiplicity,
            dual_multiplicity_real=_number(self.dual_real[index]),
            dual_variance=dual and dual.variance,
            parameters=dual and dual.parameters,
            flops=dual and dual.flops,
            efficiency=dual and dual.efficiency,
            efficiency_real=_number(self.dual_efficiency[index]),
        )


def solve(question: Question, widths: Sequence[tuple[int, ...]], log_ratio: np.ndarray) -> Solved:
    """Solve both problems for every member of ``widths``; ``log_ratio`` is ln r of each, shape (members,).

    Members whose ln r is beyond ``LARGEST_LOG_RATIO`` are left out.
    """
    log_ratio = np.asarray(log_ratio, float)
    keep = np.flatnonzero(log_ratio <= LARGEST_LOG_RATIO)
    widths = tuple(tuple(widths[index]) for index in keep)
    log_ratio = log_ratio[keep]
    affine = [question.network.affine(question.measure, member) for member in widths]
    fixed = np.array([row[0] for row in affine], float)
    per_member = np.array([row[1] for row in affine], float)
    variance = np.expm1(log_ratio)
    primal_real = primal_multiplicities(question, fixed, per_member)
    dual_real = variance / question.baseline_variance
    reachable = np.maximum(1, np.round(dual_real)) <= question.most
    dual_count = fixed + np.maximum(1.0, dual_real) * per_member
    return Solved(
        question=question,
        widths=widths,
        log_ratio=log_ratio,
        fixed=fixed,
        per_member=per_member,
        primal_real=primal_real,
        primal_variance=variance / primal_real,
        dual_real=dual_real,
        dual_efficiency=np.where(reachable, question.baseline_count / dual_count, np.nan),
    )


def primal_multiplicities(question: Question, fixed: np.ndarray, per_member: np.ndarray) -> np.ndarray:
    """m of Eq. 12 on the whole network: fixed + m · per_member = budget, at most the largest m allowed.

    NaN where not even one member fits (with the 2.5 % by which an integer may exceed the budget).
    """
    real = (question.budget - fixed) / per_member
    fits = fixed + per_member <= (1 + OVERSHOOT) * question.budget
    return np.where(fits, np.clip(real, None, question.most), np.nan)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
