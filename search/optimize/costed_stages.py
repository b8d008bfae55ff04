"""Own stages where time or memory decides: each stage's candidates with their costs, and the best choice among them.

Counts and memory are exact for every candidate. Where the multiplicities of a width are many, steps of them are tried,
and then every one around what was chosen, until nothing changes.

Times are measured for some m of some widths of each stage, and predicted for others of their m. What is chosen by the
predictions is measured, with what is nearly as good, and the choice repeated. The last one is among measured candidates
alone, so that a limit of time is kept by measured times.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from collegium.search.latency.exploration import (
    CALLS_PER_WIDTH,
    FEWEST_WIDTHS,
    MOST_SECONDS,
    SECONDS,
    WORST,
    Row,
    even,
    stage_row,
)
from collegium.search.latency.limits import CostLimit, CostName
from collegium.search.latency.stage_costs import StageMemory, StageTimes
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.network import StageGrouping
from collegium.search.optimize.built import EQUAL
from collegium.search.optimize.candidates import (
    MOST_MULTIPLICITIES,
    Candidates,
    CountedCost,
    StageCost,
    StageSolution,
    cheapest,
    smoothest,
    steps,
)
from collegium.search.optimize.knapsack import undominated
from collegium.search.optimize.limits import ROUNDING_TOLERANCE
from collegium.search.optimize.near_optimal import LANES, grain
from collegium.search.optimize.stages import StageProblem
from collegium.search.progress import Report, discard, scaled

#: Most widths of a stage that are timed, and rounds of choosing and measuring; fewer where the network takes long.
MOST_TIMED, ROUNDS, FEWEST_ROUNDS = 12, 8, 3
#: Most candidates of a stage that are measured beside a chosen one, and by how much each may be worse.
BESIDE, PURSUED = 3, 1.1
#: Neighbouring widths and multiplicities around a chosen one that are all tried.
NEAR_WIDTHS, NEAR_MULTIPLICITIES = 4, 2
#: Ensembles of the front, from the primal's variance to this multiple of the baseline's.
FRONT, NOISIEST = 8, 2.0
#: Most times the baseline's parameters for which first multiplicities are measured.
MOST_SHARE = 4.0
#: Share by which a limit of time is lowered against the rounding of sums.
ROUNDED = 1e-12

#: A candidate of a stage: the index of its widths among the stage's members, and m.
Place = tuple[int, int]


@dataclass(frozen=True)
class StageAnswers:
    """The primal, the dual, and hardware-friendly stages that are nearly as smooth as the primal; None for none.

    These are the fastest, or of least memory with widths that are multiples of ``LANES`` where no time decides.
    """

    primal: StageSolution | None
    dual: StageSolution | None
    friendly: StageSolution | None = None

    def __iter__(self) -> Iterator[StageSolution]:
        """Those that there are."""
        return (one for one in (self.primal, self.dual, self.friendly) if one is not None)

    def chosen(self) -> Iterator[tuple[int, StageGrouping, float]]:
        """Every stage of each, by index, with its grouping and its variance over the baseline's."""
        for one in self:
            yield from zip(range(len(one.stages)), one.stages, one.relative, strict=True)


@dataclass
class CostedStages:
    """Both problems over stages by ``cost``, within ``limits``, of which the first is what the primal may spend.

    ``tied`` are the m × n of all stages that were timed, the baseline first; of these every stage's time is known.
    ``tolerance`` is that of the variance within which a hardware-friendly ensemble is wanted. Measuring takes about
    ``MOST_SECONDS`` beyond what ``times`` has spent.
    """

    problem: StageProblem
    workload: Workload
    cost: CostName
    limits: tuple[CostLimit, ...]
    tolerance: float
    times: Times | None = None
    tied: Sequence[tuple[tuple[int, ...], int]] = ()
    _more: list[set[Place]] = field(default_factory=list)
    _until: float = math.inf

    def __post_init__(self) -> None:
        """Lower limits of time by no more than rounding; take the stages' times of the tied ensembles."""
        self.limits = tuple(
            replace(one, most=one.most * (1 - ROUNDED)) if one.cost == "latency" else one for one in self.limits
        )
        self._more = [set() for _ in self._stages]
        self._until = MOST_SECONDS + (self.times.spent if self.times is not None else 0.0)
        for widths, m in self.tied if self._timed is not None else ():
            self._measure(enumerate(self.problem.network.stage_groupings(widths, m)))

    def solve(self, report: Report = discard) -> StageAnswers:
        """The answers; where time is measured, among stages that were measured alone."""
        rounds = ROUNDS
        if self._timed is not None:
            self._explore(scaled(report, 0.0, 0.5))
            rounds = ROUNDS if self._most_timed == MOST_TIMED else FEWEST_ROUNDS
        for number in range(rounds):
            if self._timed is not None and self._timed.times.spent > self._until:
                break
            tables = self._tables()
            found = self._answers(tables)
            new = self._finer(found) if self._timed is None else self._unmeasured(tables, found)
            if not self._add(new, scaled(report, 0.5 + 0.5 * number / rounds, 0.5 + 0.5 * (number + 1) / rounds)):
                return found
        return self._answers(self._tables(known=True))

    def rows(self, report: Report = discard) -> list[Row]:
        """The answers and the front between them, with everything that they cost."""
        found = self.solve(report)
        every = dict.fromkeys([*found, *self._front(found.primal)])
        return [stage_row(self.problem.network, one, self.workload, self.times) for one in every]

    def _front(self, primal: StageSolution | None) -> list[StageSolution]:
        """The cheapest stages whose variances are at most some multiples of the baseline's, from the primal's on."""
        lowest = 1.0 if primal is None else max(primal.relative)
        tables = self._tables(known=True)
        levels = np.geomspace(lowest, max(NOISIEST, 2 * lowest), FRONT).tolist()
        tried = ([one.where(one.relative <= level) for one in tables] for level in levels)
        return [one for kept in tried if (one := cheapest(kept, self._fronts, self._costs, ())) is not None]

    @cached_property
    def _stages(self) -> range:
        return range(len(self.problem.constraints.scales))

    @cached_property
    def _timed(self) -> StageTimes | None:
        """The times of stages, where time is to be saved or limited."""
        decides = "latency" in (self.cost, *(limit.cost for limit in self.limits))
        return StageTimes(self.problem.network, self.times) if decides and self.times is not None else None

    @property
    def _fronts(self) -> CostName:
        """The cost of the front: that which is to be saved, or time where that is limited."""
        return self.cost if self.cost in ("latency", "memory") or self._timed is None else "latency"

    @cached_property
    def _costs(self) -> dict[CostName, StageCost]:
        """The costs that are limited, to be saved or measured."""
        network = self.problem.network
        costs: dict[CostName, StageCost] = {
            "parameters": CountedCost(network, "parameters"),
            "flops": CountedCost(network, "flops"),
            "memory": StageMemory(network, self.workload),
        }
        if self._timed is not None:
            costs["latency"] = self._timed
        wanted = {"parameters", "latency", self.cost, *(limit.cost for limit in self.limits)}
        return {name: cost for name, cost in costs.items() if name in wanted}

    @cached_property
    def _members(self) -> list[tuple[list[tuple[int, ...]], np.ndarray]]:
        """Of every stage the widths of one member, and its variance over the baseline's."""
        base = self.problem.constraints.baseline_variances
        each = [self.problem.members(stage) for stage in self._stages]
        return [(widths, variance / own) for (widths, variance), own in zip(each, base, strict=True)]

    @cached_property
    def _shares(self) -> list[float] | None:
        """The share of every stage in a counted budget, the baseline's; None where time or memory is to be spent.

        Memory is no sum over stages. Of time grouping costs the first stages so much, where maps are large, that with
        shares their variance, which is the worst, would stay near the baseline's.
        """
        budget = self.limits[0]
        if budget.cost in ("latency", "memory"):
            return None
        cost = self._costs[budget.cost]
        own = [
            float(cost.terms(stage, [one.widths], np.zeros(1, int), np.array([one.multiplicity]))[0, 0])
            for stage, one in enumerate(self._baseline)
        ]
        left = budget.most - cost.fixed[0]
        return [(1 + budget.tolerance) * left * one / sum(own) for one in own]

    def _answers(self, tables: Sequence[Candidates]) -> StageAnswers:
        """Both problems, and the hardware-friendly stages near the primal, among what ``tables`` hold."""
        limits, costs = self.limits, self._costs
        primal = smoothest([self._within_share(*one) for one in enumerate(tables)], costs, limits)
        kept = [
            one.where(one.relative <= np.where(one.multiplicity > 1, 1 + ROUNDING_TOLERANCE, 1 + EQUAL))
            for one in tables
        ]
        dual = cheapest(kept, self.cost, costs, limits[1:])  # the budget, which is the first, binds the primal alone
        if primal is None:
            return StageAnswers(primal, dual)
        bound = min((1 + self.tolerance) * max(primal.relative) * (1 + EQUAL), 1 - EQUAL)
        smooth = tables if self._timed is not None else [self._table(stage, even_alone=True) for stage in self._stages]
        near = [one.where(one.relative <= bound) for one in smooth]
        saved: CostName = "memory" if self._timed is None else "latency"
        return StageAnswers(primal, dual, cheapest(near, saved, costs, limits))

    def _within_share(self, stage: int, table: Candidates) -> Candidates:
        if self._shares is None:
            return table
        spent = table.costs[self.limits[0].cost][0]
        return table.where(spent <= self._shares[stage] * (1 + EQUAL))

    def _tables(self, *, known: bool = False) -> list[Candidates]:
        """The candidates of every stage of which no other is as good in all; ``known``: those that were measured."""
        return [self._table(stage, known=known) for stage in self._stages]

    def _table(self, stage: int, *, known: bool = False, even_alone: bool = False) -> Candidates:
        widths, single = self._members[stage]
        places = self._grid(stage)
        if even_alone:
            places = [one for one in places if grain(widths[one[0]]) >= LANES]
        if known and self._timed is not None:
            places = [one for one in places if self._timed.knows(stage, StageGrouping(widths[one[0]], one[1]))]
        table = np.array(places, int).reshape(-1, 2)
        index, m = table[:, 0], table[:, 1].astype(float)
        costs: dict[CostName, np.ndarray] = {
            name: cost.terms(stage, widths, index, m) for name, cost in self._costs.items()
        }
        relative = single[index] / m
        base = self.problem.constraints.baseline_variances[stage]
        found = Candidates(tuple(widths), index, m, relative * base, relative, costs)
        if not len(found):
            return found
        # a single member is held to the dual's variance without tolerance, and never stands for several
        rows = np.concatenate([relative[None], (m == 1)[None], *costs.values()])
        return found.where(np.sort(undominated(list(rows))))

    def _grid(self, stage: int) -> list[Place]:
        """Candidates of a stage: m up to what limits allow, the fewest for a dual, and those that were added."""
        widths, single = self._members[stage]
        usable = [
            at for at, member in enumerate(widths) if self._timed is None or (stage, member) in self._timed.measured
        ]
        places = set(self._more[stage])
        for at, largest in zip(usable, self._largest(stage, usable), strict=True):
            places |= {(at, m) for m in steps(1, largest, MOST_MULTIPLICITIES) if largest >= 1}
            places |= {(at, m) for m in self._fewest(float(single[at]))}
            if self._timed is not None:
                places |= {(at, m) for m in self._timed.measured[stage, widths[at]]}
        return sorted(one for one in places if one[1] <= self.problem.constraints.most)

    def _largest(self, stage: int, usable: Sequence[int]) -> list[int]:
        """Of each width the largest m that the stage's share, and every limit if it stood alone, allows: bisected."""
        index, most = np.array(usable, int), self.problem.constraints.most
        low, high = np.zeros(len(index)), np.ones(len(index))
        growing = self._fits(stage, index, high)
        while growing.any():
            low = np.where(growing, high, low)
            high = np.where(growing, 2 * high, high)
            growing &= (high <= most) & self._fits(stage, index, high)
        while (high - low > 1).any():
            middle = np.floor((low + high) / 2)
            fits = self._fits(stage, index, middle) & (middle <= most)
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return low.astype(int).tolist()

    def _fits(self, stage: int, index: np.ndarray, m: np.ndarray) -> np.ndarray:
        widths = self._members[stage][0]
        fits = np.ones(len(index), bool)
        for number, limit in enumerate(self.limits):
            cost = self._costs[limit.cost]
            terms = cost.terms(stage, widths, index, np.maximum(m, 1.0))
            fits &= (np.array(cost.fixed)[:, None] + terms <= limit.most * (1 + limit.tolerance)).all(axis=0)
            if number == 0 and self._shares is not None:
                fits &= terms[0] <= self._shares[stage] * (1 + EQUAL)
        return fits

    def _fewest(self, single: float, bound: float = 1 + ROUNDING_TOLERANCE) -> list[int]:
        """The fewest members with at most ``bound`` of the baseline's variance."""
        m = max(1, math.ceil(single / bound - 1e-9))
        return [m, 2] if m == 1 else [m]

    def _finer(self, found: StageAnswers) -> list[set[Place]]:
        """Every m around what was chosen, in widths around it, at about the chosen variance."""
        new: list[set[Place]] = [set() for _ in self._stages]
        for stage, grouping, relative in replace(found, friendly=None).chosen():
            widths, single = self._members[stage]
            at = widths.index(grouping.widths)
            for near in range(max(0, at - NEAR_WIDTHS), min(len(widths), at + NEAR_WIDTHS + 1)):
                m = round(float(single[near]) / relative)
                new[stage] |= {(near, other) for other in range(m - NEAR_MULTIPLICITIES, m + NEAR_MULTIPLICITIES + 1)}
        return new

    def _unmeasured(self, tables: Sequence[Candidates], found: StageAnswers) -> list[set[Place]]:
        """What was chosen, with the next even m, and what is nearly as good in variance and time, but not measured."""
        new: list[set[Place]] = [set() for _ in self._stages]
        for stage, grouping, relative in found.chosen():
            at, m = tables[stage].widths.index(grouping.widths), grouping.multiplicity
            more = even(grouping.widths, m)
            new[stage] |= {(at, m), *([(at, more)] if more is not None else [])}
            new[stage] |= self._beside(stage, tables[stage], at, m, relative)
        return new

    def _beside(self, stage: int, table: Candidates, at: int, m: int, relative: float) -> set[Place]:
        assert self._timed is not None
        own = float(self._timed.terms(stage, table.widths, np.array([at]), np.array([float(m)]))[0, 0])
        time = table.costs["latency"][0]
        near = np.flatnonzero((table.relative <= PURSUED * relative) & (time <= PURSUED * own))
        order = near[np.argsort(table.relative[near] * time[near], kind="stable")]
        places = [(int(table.index[one]), int(table.multiplicity[one])) for one in order.tolist()]
        unknown = [one for one in places if not self._timed.knows(stage, StageGrouping(table.widths[one[0]], one[1]))]
        return set(unknown[:BESIDE])

    def _add(self, new: Sequence[set[Place]], report: Report) -> bool:
        """Take further candidates, and measure them where time is measured; False where all were there already."""
        most = self.problem.constraints.most
        kept = [{one for one in places if 1 <= one[1] <= most} for places in new]
        if self._timed is not None:
            wanted = [
                (stage, StageGrouping(self._members[stage][0][at], m))
                for stage, places in enumerate(kept)
                for at, m in sorted(places)
            ]
            return self._measure(wanted, report, self._until)
        before = sum(map(len, self._more))
        self._more = [have | places for have, places in zip(self._more, kept, strict=True)]
        return sum(map(len, self._more)) > before

    def _measure(
        self, wanted: Iterable[tuple[int, StageGrouping]], report: Report = discard, seconds: float = math.inf
    ) -> bool:
        """Measure what is not known as far as ``seconds`` in all allow, from the first on; False where all is known."""
        timed = self._timed
        assert timed is not None
        new = [(stage, grouping) for stage, grouping in wanted if not timed.knows(stage, grouping)]
        parts = [timed.parts(stage, grouping) for stage, grouping in new]
        kept = timed.times.affordable_parts(parts, seconds)
        for (stage, grouping), timing in zip(new[:kept], timed.times.of_parts(parts[:kept], report), strict=True):
            timed.add(stage, grouping, timing.seconds)
        return bool(new)

    @cached_property
    def _most_timed(self) -> int:
        """As many widths as the time of the baseline allows to be measured in about two minutes; at least a few."""
        seconds = self._baseline_costs["latency"] / 1e3
        return min(MOST_TIMED, max(FEWEST_WIDTHS, int(SECONDS / (CALLS_PER_WIDTH * seconds))))

    def _explore(self, report: Report) -> None:
        """Time the most promising widths of every stage: the dual's m, and about as many as the primal has.

        Stages take turns, the most promising widths first, so that time that runs out is shared.
        """
        most = self.problem.constraints.most
        new: list[dict[StageGrouping, None]] = [{} for _ in self._stages]
        for stage in self._stages:
            widths, single = self._members[stage]
            for at in self._promising(stage):
                first = [*self._fewest(float(single[at]))[:1], self._affordable(stage, at)]
                more = [another for m in first if (another := even(widths[at], m)) is not None]
                new[stage] |= dict.fromkeys(StageGrouping(widths[at], m) for m in (*first, *more) if 1 <= m <= most)
        turns = itertools.zip_longest(*new)
        wanted = [(stage, one) for turn in turns for stage, one in enumerate(turn) if one is not None]
        self._measure(wanted, report, self._until)

    def _promising(self, stage: int) -> list[int]:
        """Widths that cost little for their variance: the best, those of even widths, and a geometric spread."""
        widths, single = self._members[stage]
        index = np.arange(len(widths))
        chosen: list[int] = []
        for name, cost in self._costs.items():
            if name == "latency" or not len(index):
                continue
            value = cost.terms(stage, widths, index, np.maximum(1.0, np.round(single))).max(axis=0)
            good = np.flatnonzero(value <= WORST * value.min())
            good = good[np.argsort(value[good], kind="stable")]
            chosen += good[:4].tolist()
            if name == "parameters":
                by_width = np.sort(good)
                spread = np.unique(np.geomspace(1, len(by_width), 6).round().astype(int) - 1)
                chosen += [at for at in good.tolist() if all(width % 8 == 0 for width in widths[at])][:3]
                chosen += by_width[spread].tolist()
        return list(dict.fromkeys(chosen))[: self._most_timed]

    def _affordable(self, stage: int, at: int) -> int:
        """About how many members the baseline's parameters buy, or the share of them that limits leave of its costs."""
        network, own = self.problem.network, self._baseline
        share = min(limit.most / self._baseline_costs[limit.cost] for limit in self.limits)
        spent = own[stage].multiplicity * network.stage_cost("parameters", stage, own[stage].widths)
        each = network.stage_cost("parameters", stage, self._members[stage][0][at])
        return max(1, int(min(MOST_SHARE, share) * spent / each))

    @cached_property
    def _baseline(self) -> tuple[StageGrouping, ...]:
        network = self.problem.network
        return network.stage_groupings(network.baseline, network.multiplicity)

    @cached_property
    def _baseline_costs(self) -> dict[CostName, float]:
        ones = (1.0,) * len(self._stages)
        found = StageSolution(self._baseline, self.problem.constraints.baseline_variances, ones, 0.0)
        return stage_row(self.problem.network, found, self.workload, self.times).costs
