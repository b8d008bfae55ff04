"""What may be built of each stage, with the variance and every cost of it, and the best choice among it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from collegium.search.latency.limits import CostLimit, CostName
from collegium.search.networks.network import Measure, Network, StageGrouping
from collegium.search.optimize.knapsack import Bound, StageSum, choose
from collegium.search.spec import SpaceSpec

#: Most widths of a stage: every one up to half of them, and geometric steps beyond.
MOST_WIDTHS = 384
#: Most multiplicities of one width where limits couple the stages, about: as for widths.
MOST_MULTIPLICITIES = 48


class StageCost(Protocol):
    """A cost of the network as the largest of a few sums over its stages."""

    @property
    def fixed(self) -> tuple[float, ...]:
        """What each of the sums has beside the stages' terms."""
        ...

    def terms(
        self, stage: int, widths: Sequence[tuple[int, ...]], index: np.ndarray, multiplicity: np.ndarray
    ) -> np.ndarray:
        """The terms of candidates of a stage, shape (sums, candidates), by the indices of their widths and m."""
        ...


@dataclass(frozen=True)
class CountedCost:
    """Parameters or FLOPs: one sum."""

    network: Network
    measure: Measure

    @property
    def fixed(self) -> tuple[float, ...]:
        """What no grouping changes."""
        return (float(self.network.fixed_cost(self.measure)),)

    def terms(
        self, stage: int, widths: Sequence[tuple[int, ...]], index: np.ndarray, multiplicity: np.ndarray
    ) -> np.ndarray:
        """m times the cost of one member."""
        each = np.array([self.network.stage_cost(self.measure, stage, member) for member in widths], float)
        return (multiplicity * each[index])[None]


@dataclass(frozen=True)
class Candidates:
    """What may be built of one stage, arrays of one entry each: widths by index, m, Var / m, that over the baseline's.

    ``costs`` has the stage's terms of every cost that is limited or asked for, shape (sums, candidates).
    """

    widths: tuple[tuple[int, ...], ...]
    index: np.ndarray
    multiplicity: np.ndarray
    variance: np.ndarray
    relative: np.ndarray
    costs: Mapping[CostName, np.ndarray]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.index)

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
            {cost: terms[:, keep] for cost, terms in self.costs.items()},
        )


@dataclass(frozen=True)
class StageSolution:
    """One candidate for every stage; ``gap``: by how much, relatively, any choice of candidates could be better."""

    stages: tuple[StageGrouping, ...]
    variances: tuple[float, ...]
    relative: tuple[float, ...]
    gap: float


Costs = Mapping[CostName, StageCost]


def smoothest(candidates: Sequence[Candidates], costs: Costs, limits: Sequence[CostLimit]) -> StageSolution | None:
    """The least variance of the worst stage within ``limits``, and then the least of all stages' product."""
    if not all(len(one) for one in candidates):
        return None
    zeros = [np.zeros(len(one)) for one in candidates]
    worst = choose(
        [
            StageSum((*zeros[:stage], one.relative, *zeros[stage + 1 :]))  # of one stage alone
            for stage, one in enumerate(candidates)
        ],
        _bounds(candidates, costs, limits),
    )
    if worst is None:
        return None
    best = [int(np.argmin(one.relative)) for one in candidates]
    if tuple(best) == worst.chosen:
        return _solution(candidates, best, worst.gap)
    kept = [one.where(one.relative <= worst.value * (1 + 1e-9)) for one in candidates]
    product = StageSum(tuple(np.log(np.maximum(one.relative, 1e-300)) for one in kept))
    found = choose([product], _bounds(kept, costs, limits))
    if found is None:
        return _solution(candidates, worst.chosen, worst.gap)
    return _solution(kept, found.chosen, worst.gap)


def cheapest(
    candidates: Sequence[Candidates], cost: CostName, costs: Costs, limits: Sequence[CostLimit]
) -> StageSolution | None:
    """The least of a cost within ``limits``."""
    if not all(len(one) for one in candidates):
        return None
    found = choose(_sums(candidates, cost, costs), _bounds(candidates, costs, limits))
    return None if found is None else _solution(candidates, found.chosen, found.gap)


def _sums(candidates: Sequence[Candidates], cost: CostName, costs: Costs) -> list[StageSum]:
    return [
        StageSum(tuple(one.costs[cost][row] for one in candidates), fixed)
        for row, fixed in enumerate(costs[cost].fixed)
    ]


def _bounds(candidates: Sequence[Candidates], costs: Costs, limits: Sequence[CostLimit]) -> list[Bound]:
    return [
        Bound(one, limit.most * (1 + limit.tolerance))
        for limit in limits
        for one in _sums(candidates, limit.cost, costs)
    ]


def _solution(candidates: Sequence[Candidates], chosen: Sequence[int], gap: float) -> StageSolution:
    pairs = list(zip(candidates, chosen, strict=True))
    return StageSolution(
        stages=tuple(one.grouping(at) for one, at in pairs),
        variances=tuple(float(one.variance[at]) for one, at in pairs),
        relative=tuple(float(one.relative[at]) for one, at in pairs),
        gap=gap,
    )


def stage_members(network: Network, space: SpaceSpec, scale: int) -> list[tuple[int, ...]]:
    """Width vectors of one member of a stage in the baseline's ratio, by the first width.

    ``min_width`` and ``max_width`` are the first stage's, and grow with the stage as the baseline's do; every width is
    a multiple of ``multiple_of`` and of what groups divide. The range ends at the baseline's own width there, at m
    times that for one of m members.
    """
    grains = [math.lcm(space.multiple_of, grain) for grain in network.width_grains]
    step = grains[0]
    low = max(1, space.min_width * scale if space.min_width > 1 else 1)
    own = [width * scale for width in network.baseline]
    tops = [space.max_width * scale if space.max_width else max(width * network.multiplicity, low) for width in own]
    first, last = -(-low // step), tops[0] // step
    if last < first:
        return []
    base = own[0] // step if own[0] % step == 0 else None
    grid: set[int] = {*steps(first, last, MOST_WIDTHS), *([base] if base is not None and first <= base <= last else [])}
    members = {}
    for multiple in sorted(grid):
        ratio = multiple * step / own[0]
        each = zip(own, grains, strict=True)
        member = tuple(max(grain, round(ratio * width / grain) * grain) for width, grain in each)
        if min(member) >= low and all(width <= top for width, top in zip(member, tops, strict=True)):
            members[member] = None
    return list(members)


def steps(first: int, last: int, most: int) -> list[int]:
    """Integers of a range: every one up to half of ``most`` of them, and geometric steps beyond.

    >>> steps(1, 100, 10)
    [1, 2, 3, 4, 5, 6, 12, 24, 49, 100]
    """
    if last - first < most:
        return list(range(first, last + 1))
    knee = first + most // 2
    beyond = np.unique(np.geomspace(knee, last, most // 2).round().astype(int)).tolist()
    return [*range(first, knee), *beyond]
