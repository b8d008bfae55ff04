"""Every stage its own (m_i, n_i): both problems over the stages of a residual network, under shared limits.

A stage's module is the same chain at the stage's own widths, so its variance is on the same curve, and the network's
cost is the fixed part plus a sum over stages. Each problem is therefore a choice of one candidate, m members of width
n, for every stage:

* dual: the cheapest network with at most the baseline's variance in every stage;
* primal: the smallest variance in every stage with no more than the stage's own share of the budget. Moving budget
  between stages by Σ v/m makes the sum of the modules' variances fall, and gains nothing in the network as a whole.

Without further limits the stages are independent, and each is solved by trying every candidate. Limits in other
measures couple them: then an integer program chooses among the candidates (a multiple-choice knapsack), whose
relaxation bounds what any choice can reach; the gap to that bound is part of the answer (``knapsack``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collegium.search.curve.source import LogRatios
from collegium.search.latency.limits import CostLimit, CostName
from collegium.search.networks.network import Measure, Network
from collegium.search.optimize.candidates import (
    MOST_MULTIPLICITIES,
    Candidates,
    CountedCost,
    StageCost,
    StageSolution,
    cheapest,
    smoothest,
    stage_members,
    steps,
)
from collegium.search.optimize.limits import ROUNDING_TOLERANCE, Constraints
from collegium.search.optimize.variances import LARGEST_FINITE, LARGEST_LOG_RATIO
from collegium.search.spec import SpaceSpec


@dataclass(frozen=True)
class StageProblem:
    """Both problems over stages. ``log_ratios`` gives ln r of one member of a stage at absolute widths."""

    network: Network
    constraints: Constraints
    space: SpaceSpec
    log_ratios: LogRatios

    def primal(self) -> StageSolution | None:
        """The smoothest stages within each one's share of the budget; None where a stage has no member that fits.

        Where other limits couple the stages, the variance of the worst one is the smallest that they allow.
        """
        budgets = self._stage_budgets()
        if budgets is None:
            return None
        limits = self._limits
        chosen = [self._within_budget(stage, budget, every=bool(limits)) for stage, budget in enumerate(budgets)]
        return smoothest(chosen, self.costs, limits)

    def dual(self) -> StageSolution | None:
        """The cheapest stages with at most 102.5 % of the baseline's variance in each; None where a stage has none."""
        chosen = [self._within_variance(stage) for stage in range(len(self.constraints.scales))]
        return cheapest(chosen, self.constraints.measure, self.costs, self._limits)

    @cached_property
    def costs(self) -> dict[CostName, StageCost]:
        """The counts that are limited or asked for."""
        measures: set[Measure] = {self.constraints.measure, *(limit.measure for limit in self.constraints.limits)}
        return {measure: CountedCost(self.network, measure) for measure in sorted(measures)}

    @property
    def _limits(self) -> list[CostLimit]:
        """Those beside the budget."""
        return [CostLimit(one.measure, one.most, one.tolerance, one.field) for one in self.constraints.limits[1:]]

    def _stage_budgets(self) -> list[float] | None:
        """The share of every stage in what the budget leaves beside the fixed cost: its share in the baseline's."""
        network, budget = self.network, self.constraints.budget
        baseline = network.stage_groupings(network.baseline, network.multiplicity)
        own = [
            one.multiplicity * network.stage_cost(budget.measure, stage, one.widths)
            for stage, one in enumerate(baseline)
        ]
        left = budget.most - network.fixed_cost(budget.measure)
        return None if left <= 0 else [left * cost / sum(own) for cost in own]

    def _within_budget(self, stage: int, budget: float, *, every: bool) -> Candidates:
        """Of each width the integer m that the stage's budget buys, the nearest where the budget has a tolerance.

        ``every``: smaller m as well, which other limits may ask for.
        """
        measure, tolerance = self.constraints.budget.measure, self.constraints.budget.tolerance
        widths, variance = self.members(stage)
        per_member = self._per_member(stage, widths, measure)
        real = np.minimum(budget / per_member, self.constraints.most)
        near = np.round(real)
        most = np.where(near * per_member <= (1 + tolerance) * budget, near, np.floor(real))
        return self._candidates(stage, widths, variance, *_multiples(most, every))

    def _within_variance(self, stage: int) -> Candidates:
        """Of each width the fewest members with the baseline's variance, rounded as the dual's m is."""
        widths, variance = self.members(stage)
        real = variance / self.constraints.baseline_variances[stage]
        near = np.maximum(1.0, np.round(real))
        most = np.where(real > (1 + ROUNDING_TOLERANCE) * near, np.ceil(real), near)
        most = np.where((most == 1) & (real > 1 + 1e-12), 2.0, most)
        return self._candidates(stage, widths, variance, np.arange(len(widths)), most)

    def _candidates(
        self, stage: int, widths: Sequence[tuple[int, ...]], variance: np.ndarray, index: np.ndarray, m: np.ndarray
    ) -> Candidates:
        keep = (m >= 1) & (m <= self.constraints.most)
        index, m = index[keep], m[keep]
        single = variance[index]
        return Candidates(
            widths=tuple(widths),
            index=index,
            multiplicity=m,
            variance=single / m,
            relative=single / m / self.constraints.baseline_variances[stage],
            costs={name: cost.terms(stage, widths, index, m) for name, cost in self.costs.items()},
        )

    def members(self, stage: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Widths of one member of a stage that the space allows, and r − 1 of each; those that are unknown left out."""
        network, scale = self.network, self.constraints.scales[stage]
        widths = stage_members(network, self.space, scale)
        if not widths:
            return [], np.empty(0)
        log_ratio = np.asarray(self.log_ratios(np.array(widths, float)))
        known = log_ratio <= LARGEST_LOG_RATIO
        kept = [member for member, keep in zip(widths, known.tolist(), strict=True) if keep]
        return kept, np.expm1(np.minimum(log_ratio[known], LARGEST_FINITE))

    def _per_member(self, stage: int, widths: Sequence[tuple[int, ...]], measure: Measure) -> np.ndarray:
        return np.array([self.network.stage_cost(measure, stage, member) for member in widths], float)


def _multiples(most: np.ndarray, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices of widths with multiplicities: the largest alone, or steps down to one member as well."""
    if not every:
        return np.arange(len(most)), most
    multiples = [(at, m) for at, largest in enumerate(most.tolist()) for m in _smaller(largest)]
    table = np.array(multiples, float).reshape(-1, 2)
    return table[:, 0].astype(int), table[:, 1]


def _smaller(largest: float) -> list[int]:
    return steps(1, int(largest), MOST_MULTIPLICITIES) if largest >= 1 else []
