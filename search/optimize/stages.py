"""Every stage its own (m_i, n_i): both problems over the stages of a residual network, under shared limits.

A stage's module is the same chain at the stage's own widths, so its variance is on the same curve, and the network's
cost is the fixed part plus a sum over stages. Each problem is therefore a choice of one candidate, m members of width
n, for every stage:

* dual: the cheapest network with at most the baseline's variance in every stage;
* primal: the smallest variance in every stage with no more than the stage's own share of the budget. Moving budget
  between stages by Σ v/m makes the sum of the modules' variances fall, and gains nothing in the network as a whole.

Without further limits the stages are independent, and each is solved by trying every candidate. Limits in other
measures couple them: then an integer program chooses among the candidates (a multiple-choice knapsack), whose
relaxation bounds what any choice can reach; the gap to that bound is part of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from collegium.search.curve.source import LogRatios
from collegium.search.networks.network import Measure, Network, StageGrouping
from collegium.search.optimize.limits import ROUNDING_TOLERANCE, Constraints, Limit
from collegium.search.optimize.variances import LARGEST_FINITE, LARGEST_LOG_RATIO
from collegium.search.spec import SpaceSpec

#: Most widths of a stage: every one up to half of them, and geometric steps beyond.
MOST_WIDTHS = 384
#: Most multiplicities of one width where limits couple the stages: geometric steps.
MOST_MULTIPLICITIES = 40
#: Relative gap at which the integer program stops.
GAP = 1e-6


@dataclass(frozen=True)
class Candidates:
    """What may be built of one stage, arrays of one entry each: widths by index, m, Var / m, that over the baseline's.

    ``costs`` has the cost of the stage in every measure that is limited or asked for.
    """

    widths: tuple[tuple[int, ...], ...]
    index: np.ndarray
    multiplicity: np.ndarray
    variance: np.ndarray
    relative: np.ndarray
    costs: Mapping[Measure, np.ndarray]

    def grouping(self, at: int) -> StageGrouping:
        """The grouping of one candidate."""
        return StageGrouping(self.widths[int(self.index[at])], int(self.multiplicity[at]))

    def where(self, keep: np.ndarray) -> Candidates:
        """The candidates that are kept."""
        return Candidates(
            self.widths,
            self.index[keep],
            self.multiplicity[keep],
            self.variance[keep],
            self.relative[keep],
            {measure: costs[keep] for measure, costs in self.costs.items()},
        )


@dataclass(frozen=True)
class StageSolution:
    """One candidate for every stage; ``gap``: by how much, relatively, any choice of candidates could be better."""

    stages: tuple[StageGrouping, ...]
    variances: tuple[float, ...]
    relative: tuple[float, ...]
    gap: float


@dataclass(frozen=True)
class StageProblem:
    """Both problems over stages. ``single`` holds ln r of one member of a stage at absolute widths."""

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
        limits = self.constraints.limits[1:]
        chosen = []
        for stage, budget in enumerate(budgets):
            found = self._within_budget(stage, budget, every=bool(limits))
            if not len(found.multiplicity):
                return None
            chosen.append(found)
        best = [int(np.argmin(one.relative)) for one in chosen]
        if self._within(chosen, best, limits):
            return _solution(chosen, best, 0.0)
        return self._smoothest(chosen, limits)

    def dual(self) -> StageSolution | None:
        """The cheapest stages with at most 102.5 % of the baseline's variance in each; None where a stage has none."""
        chosen = []
        for stage in range(len(self.constraints.scales)):
            found = self._within_variance(stage)
            if not len(found.multiplicity):
                return None
            chosen.append(found)
        costs, limits = [one.costs[self.constraints.measure] for one in chosen], self.constraints.limits[1:]
        best = [int(np.argmin(cost)) for cost in costs]
        if self._within(chosen, best, limits):
            return _solution(chosen, best, 0.0)
        found = self._knapsack(chosen, costs, limits)
        return None if found is None else _solution(chosen, found.best, found.value / found.bound - 1)

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
        widths, variance = self._members(stage)
        per_member = self._costs(stage, widths, measure)
        real = np.minimum(budget / per_member, self.constraints.most)
        near = np.round(real)
        most = np.where(near * per_member <= (1 + tolerance) * budget, near, np.floor(real))
        return self._candidates(stage, widths, variance, *_multiples(most, every))

    def _within_variance(self, stage: int) -> Candidates:
        """Of each width the fewest members with the baseline's variance, rounded as the dual's m is."""
        widths, variance = self._members(stage)
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
        measures: set[Measure] = {self.constraints.measure, *(limit.measure for limit in self.constraints.limits)}
        single = variance[index]
        return Candidates(
            widths=tuple(widths),
            index=index,
            multiplicity=m,
            variance=single / m,
            relative=single / m / self.constraints.baseline_variances[stage],
            costs={measure: m * self._costs(stage, widths, measure)[index] for measure in sorted(measures)},
        )

    def _members(self, stage: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Widths of one member of a stage that the space allows, and r − 1 of each; those that are unknown left out."""
        network, scale = self.network, self.constraints.scales[stage]
        widths = stage_members(network, self.space, scale)
        if not widths:
            return [], np.empty(0)
        log_ratio = np.asarray(self.log_ratios(np.array(widths, float)))
        known = log_ratio <= LARGEST_LOG_RATIO
        kept = [member for member, keep in zip(widths, known.tolist(), strict=True) if keep]
        return kept, np.expm1(np.minimum(log_ratio[known], LARGEST_FINITE))

    def _costs(self, stage: int, widths: Sequence[tuple[int, ...]], measure: Measure) -> np.ndarray:
        return np.array([self.network.stage_cost(measure, stage, member) for member in widths], float)

    def _smoothest(self, candidates: Sequence[Candidates], limits: Sequence[Limit]) -> StageSolution | None:
        """The least variance of the worst stage within ``limits``, and then the least of all stages' product."""
        worst = self._knapsack(candidates, [one.relative for one in candidates], limits, bottleneck=True)
        if worst is None:
            return None
        kept = [one.where(one.relative <= worst.value * (1 + 1e-9)) for one in candidates]
        found = self._knapsack(kept, [np.log(np.maximum(one.relative, 1e-300)) for one in kept], limits)
        gap = worst.value / worst.bound - 1
        return _solution(candidates, worst.best, gap) if found is None else _solution(kept, found.best, gap)

    def _within(self, candidates: Sequence[Candidates], best: Sequence[int], limits: Sequence[Limit]) -> bool:
        for limit in limits:
            spent = sum(float(one.costs[limit.measure][at]) for one, at in zip(candidates, best, strict=True))
            if self.network.fixed_cost(limit.measure) + spent > limit.bound:
                return False
        return True

    def _knapsack(
        self,
        candidates: Sequence[Candidates],
        objectives: Sequence[np.ndarray],
        limits: Sequence[Limit],
        *,
        bottleneck: bool = False,
    ) -> _Chosen | None:
        """One candidate of every stage by integer programming; None where nothing is within ``limits``.

        The least sum of the objectives; with ``bottleneck``, the least of the largest of them, a variable of its own.
        """
        kept = [
            _undominated([objective, *(one.costs[limit.measure] for limit in limits)])
            for one, objective in zip(candidates, objectives, strict=True)
        ]
        values = [objective[indices] for objective, indices in zip(objectives, kept, strict=True)]
        sizes = [len(indices) for indices in kept]
        total, extra = sum(sizes), int(bottleneck)
        stage_of = np.repeat(np.arange(len(kept)), sizes)
        one_each = np.pad((stage_of == np.arange(len(kept))[:, None]).astype(float), ((0, 0), (0, extra)))
        constraints = [LinearConstraint(one_each, 1, 1)]
        for limit in limits:
            spent = [one.costs[limit.measure][indices] for one, indices in zip(candidates, kept, strict=True)]
            row = np.pad(np.concatenate(spent) / limit.most, (0, extra))
            left = (limit.bound - self.network.fixed_cost(limit.measure)) / limit.most
            constraints.append(LinearConstraint(row[None], ub=left))
        value = np.concatenate(values)
        scale = max(float(np.abs(value).max()), 1e-300)
        if bottleneck:  # every stage's objective is at most the last variable
            rows = np.hstack([one_each[:, :total] * value / scale, -np.ones((len(kept), 1))])
            constraints.append(LinearConstraint(rows, ub=0))
        found = milp(
            np.r_[np.zeros(total), 1.0] if bottleneck else value / scale,
            constraints=constraints,
            integrality=np.r_[np.ones(total), np.zeros(extra)],
            bounds=Bounds(0, np.r_[np.ones(total), np.full(extra, np.inf)]),
            options={"mip_rel_gap": GAP},
        )
        if found.x is None:
            return None
        taken = [int(np.argmax(found.x[:total] * (stage_of == stage))) for stage in range(len(kept))]
        starts = np.cumsum([0, *sizes[:-1]])
        best = [int(indices[at - start]) for indices, at, start in zip(kept, taken, starts, strict=True)]
        if not self._within(candidates, best, limits):
            return None  # by no more than the solver's rounding, but a limit is a limit
        chosen = value[taken]
        return _Chosen(best, float(chosen.max() if bottleneck else chosen.sum()), float(found.mip_dual_bound) * scale)


@dataclass(frozen=True)
class _Chosen:
    """Indices of the candidates taken, the objective, and the bound on what any choice can reach."""

    best: list[int]
    value: float
    bound: float


def _solution(candidates: Sequence[Candidates], best: Sequence[int], gap: float) -> StageSolution:
    pairs = list(zip(candidates, best, strict=True))
    return StageSolution(
        stages=tuple(one.grouping(at) for one, at in pairs),
        variances=tuple(float(one.variance[at]) for one, at in pairs),
        relative=tuple(float(one.relative[at]) for one, at in pairs),
        gap=max(0.0, gap),
    )


def stage_members(network: Network, space: SpaceSpec, scale: int) -> list[tuple[int, ...]]:
    """Width vectors of one member of a stage in the baseline's ratio, by the first width.

    ``min_width`` and ``max_width`` are the first stage's, and grow with the stage as the baseline's do; every width is
    a multiple of ``multiple_of``. The range ends at the baseline's own width there, at m times that for one of m
    members.
    """
    step = space.multiple_of
    low = max(1, space.min_width * scale if space.min_width > 1 else 1)
    own = [width * scale for width in network.baseline]
    tops = [space.max_width * scale if space.max_width else max(width * network.multiplicity, low) for width in own]
    first, last = -(-low // step), tops[0] // step
    if last < first:
        return []
    grid: list[int] = list(range(first, last + 1))
    if len(grid) > MOST_WIDTHS:
        knee = first + MOST_WIDTHS // 2
        steps = np.unique(np.geomspace(knee, last, MOST_WIDTHS // 2).round().astype(int)).tolist()
        grid = [*range(first, knee), *steps]
    base = own[0] // step if own[0] % step == 0 else None
    grid = sorted({*grid, *([base] if base is not None and first <= base <= last else [])})
    members = {}
    for multiple in grid:
        ratio = multiple * step / own[0]
        member = tuple(max(step, round(ratio * width / step) * step) for width in own)
        if min(member) >= low and all(width <= top for width, top in zip(member, tops, strict=True)):
            members[member] = None
    return list(members)


def _multiples(most: np.ndarray, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices of widths with multiplicities: the largest alone, or geometric steps down to one member as well."""
    if not every:
        return np.arange(len(most)), most
    index, multiplicity = [], []
    for at, largest in enumerate(most.tolist()):
        if largest >= 1:
            steps = np.unique(np.geomspace(1, largest, MOST_MULTIPLICITIES).round())
            index += [at] * len(steps)
            multiplicity += steps.tolist()
    return np.array(index, int), np.array(multiplicity, float)


def _undominated(values: Sequence[np.ndarray]) -> np.ndarray:
    """Indices of candidates of which no other is as good in every value, sorted by the first."""
    table = np.stack(values, axis=1)
    order = np.lexsort(table.T[::-1])
    kept: list[int] = []
    front = np.empty((0, table.shape[1] - 1))
    for at in order.tolist():
        others = table[at, 1:]
        if not len(front) or not (front <= others).all(axis=1).any():
            kept.append(at)
            front = np.vstack([front, others])
    return np.array(kept, int)
