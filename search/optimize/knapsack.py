"""One candidate for every stage: a multiple-choice knapsack, solved as an integer program.

Costs and variances are sums over stages, or the largest of a few such sums: the worst stage's variance is the largest
of sums of one term each, the memory of a network the largest of the sums that hold while each of its stages runs. The
program minimizes the largest of some sums under bounds on others. Its relaxation bounds what any choice can reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

#: Relative gap at which the integer program stops, and nodes after which it does so with a larger one.
GAP, MOST_NODES = 1e-6, 20_000
#: Times that the program is solved again at the scale of what was found, where its gap is too large.
REFINED = 3
#: Multiple of what every stage at its best would give, within which the best choice is sought first.
FAR = 100.0
#: Choices that the solver's rounding took beyond a bound, which are ruled out one by one; then all bounds are lowered.
MOST_CUTS, LOWERED, ROUNDED = 16, 1e-6, 2e-6


@dataclass(frozen=True)
class StageSum:
    """``fixed`` plus one term of each stage: ``terms[s]`` has those of the candidates of stage s."""

    terms: tuple[np.ndarray, ...]
    fixed: float = 0.0

    @property
    def lowest(self) -> float:
        """The sum of the least terms."""
        return self.fixed + sum(float(term.min()) for term in self.terms)

    def at(self, chosen: Sequence[int]) -> float:
        """The sum for one candidate of each stage, by index."""
        return self.fixed + sum(float(term[at]) for term, at in zip(self.terms, chosen, strict=True))


@dataclass(frozen=True)
class Bound:
    """A sum over stages that may be at most ``most``."""

    sum: StageSum
    most: float

    def holds(self, chosen: Sequence[int]) -> bool:
        """Whether candidates, one of each stage, are within it."""
        return self.sum.at(chosen) <= self.most

    def allows(self, stage: int) -> np.ndarray:
        """Which candidates of a stage are within it if all other stages have their least terms."""
        terms = self.sum.terms[stage]
        return terms - terms.min() <= self.most - self.sum.lowest + 1e-12 * abs(self.most)


@dataclass(frozen=True)
class Choice:
    """Indices of the candidates taken, the objective, and the least that any choice could have."""

    chosen: tuple[int, ...]
    value: float
    bound: float

    @property
    def gap(self) -> float:
        """By how much, relatively, another choice could be better."""
        return max(0.0, self.value - self.bound) / max(abs(self.bound), 1e-300)


def choose(objective: Sequence[StageSum], bounds: Sequence[Bound]) -> Choice | None:
    """The candidates, one of each stage, whose largest sum of ``objective`` is least; None where none is in ``bounds``.

    >>> import numpy as np
    >>> cost = StageSum((np.array([1.0, 4.0]), np.array([2.0, 3.0])))
    >>> noise = StageSum((np.array([9.0, 1.0]), np.array([5.0, 1.0])))
    >>> choose([cost], [Bound(noise, 11.0)]).chosen
    (0, 1)
    """
    if not all(len(term) for term in objective[0].terms):
        return None
    best = _best_apart(objective, bounds)
    if best is not None:
        value = max(one.at(best) for one in objective)
        return Choice(best, value, value)
    least = _least(objective)
    # candidates that are far from what the best could reach are left out at first: they spoil the program's scale
    scale = least
    found = _kept(objective, bounds, FAR * least, scale) if least > 0 else None
    if found is None or found.value > FAR * least:
        scale = max(float(np.abs(np.concatenate(one.terms)).max()) for one in objective)
        found = _kept(objective, bounds, np.inf, scale)
    for _ in range(REFINED):
        if found is None or least <= 0 or scale <= 2 * found.value:
            break
        scale = found.value
        finer = _kept(objective, bounds, scale * (1 + 1e-9), scale)
        found = replace(found, bound=scale) if finer is None else finer
    return found


def _least(objective: Sequence[StageSum]) -> float:
    """What every stage at its best would give; 0 where that is no scale, because there are negative terms."""
    if min(one.fixed + min(float(term.min()) for term in one.terms) for one in objective) < 0:
        return 0.0
    return max(one.lowest for one in objective)


def _kept(objective: Sequence[StageSum], bounds: Sequence[Bound], most: float, scale: float) -> Choice | None:
    """The best choice that keeps the bounds, of candidates with which the objective can be at most ``most``.

    The solver's own absolute gap, some 10⁻⁶, is that of the objective over ``scale``.
    """
    sums = [*objective, *(bound.sum for bound in bounds)]
    limited = [*(Bound(one, most) for one in objective), *bounds]
    kept = []
    for stage in range(len(objective[0].terms)):
        near = np.flatnonzero(np.all([bound.allows(stage) for bound in limited], axis=0))
        kept.append(near[undominated([one.terms[stage][near] for one in sums])])
        if not len(kept[-1]):
            return None
    cuts: list[tuple[int, ...]] = []
    bound = math.inf
    for attempt in range(MOST_CUTS + 2):
        found = _program(objective, bounds, kept, scale, cuts, max(0, attempt - MOST_CUTS) * LOWERED)
        if found is None:
            return None
        if attempt <= MOST_CUTS:
            bound = found.bound  # what was ruled out is no choice; lowered limits, below, rule out some
        # beyond a bound by no more than the solver's rounding, but a limit is a limit
        if all(limit.holds(found.chosen) for limit in bounds):
            return replace(found, bound=bound)
        cuts.append(found.chosen)
    return None


def _best_apart(objective: Sequence[StageSum], bounds: Sequence[Bound]) -> tuple[int, ...] | None:
    """The best candidate of each stage by itself, where it is the best in every sum, and all are within ``bounds``."""
    best = []
    for stage in range(len(objective[0].terms)):
        table = np.stack([one.terms[stage] for one in objective])
        lowest = np.flatnonzero((table <= table.min(axis=1, keepdims=True)).all(axis=0))
        if not len(lowest):
            return None
        best.append(int(lowest[0]))
    return tuple(best) if all(bound.holds(best) for bound in bounds) else None


def _program(
    objective: Sequence[StageSum],
    bounds: Sequence[Bound],
    kept: Sequence[np.ndarray],
    scale: float,
    cuts: Sequence[tuple[int, ...]],
    lowered: float,
) -> Choice | None:
    """The integer program over the candidates of every stage at the indices ``kept``, without the choices ``cuts``."""
    stages = range(len(kept))
    stage_of = np.repeat(np.arange(len(kept)), [len(indices) for indices in kept])
    total, extra = len(stage_of), int(len(objective) > 1)

    def row(one: StageSum) -> np.ndarray:
        return np.concatenate([one.terms[stage][kept[stage]] for stage in stages])

    one_each = np.pad((stage_of == np.arange(len(kept))[:, None]).astype(float), ((0, 0), (0, extra)))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for bound in bounds:
        # beyond the least of every stage, which is exact where little is left
        least = np.array([float(bound.sum.terms[stage][kept[stage]].min()) for stage in stages])
        terms, left = row(bound.sum) - least[stage_of], bound.most - bound.sum.fixed - float(least.sum())
        unit = max(float(terms.max()), left, 1e-12 * abs(bound.most), 1e-300)
        # less than none is rounding; the solver counts to a millionth, so that it is given one more, and then one less
        below = (max(left, 0.0) - lowered * abs(bound.most)) / unit + (0.0 if lowered else ROUNDED)
        constraints.append(LinearConstraint(np.pad(terms / unit, (0, extra))[None], ub=below))
    for cut in cuts:
        taken = np.concatenate([kept[stage] == cut[stage] for stage in stages]).astype(float)
        constraints.append(LinearConstraint(np.pad(taken, (0, extra))[None], ub=len(kept) - 1))
    rows = np.stack([row(one) for one in objective])
    scale = max(scale, 1e-300)
    if extra:  # every sum of the objective is at most the last variable
        most: Any = [-one.fixed / scale for one in objective]
        below = np.hstack([rows / scale, -np.ones((len(rows), 1))])
        constraints.append(LinearConstraint(below, ub=most))
    found = milp(
        np.r_[np.zeros(total), 1.0] if extra else rows[0] / scale,
        constraints=constraints,
        integrality=np.r_[np.ones(total), np.zeros(extra)],
        bounds=Bounds(np.r_[np.zeros(total), np.full(extra, -np.inf)], np.r_[np.ones(total), np.full(extra, np.inf)]),
        options={"mip_rel_gap": GAP, "node_limit": MOST_NODES},
    )
    if found.x is None:
        return None
    taken = [int(np.argmax(np.where(stage_of == stage, found.x[:total], -1.0))) for stage in stages]
    starts = np.searchsorted(stage_of, stages)
    chosen = tuple(int(kept[stage][taken[stage] - starts[stage]]) for stage in stages)
    least = float(found.mip_dual_bound) * scale + (0.0 if extra else objective[0].fixed)
    return Choice(chosen, max(one.at(chosen) for one in objective), least)


def undominated(values: Sequence[np.ndarray]) -> np.ndarray:
    """Indices of candidates of which no other is as good in every value; of equal ones the first.

    >>> import numpy as np
    >>> undominated([np.array([1.0, 2.0, 3.0]), np.array([3.0, 3.0, 1.0])]).tolist()
    [0, 2]
    """
    table = np.unique(np.stack(values), axis=0).T if len(values) > 1 else np.stack(values, axis=1)
    order = np.lexsort(table.T[::-1])
    front = np.empty_like(table)
    kept: list[int] = []
    for at in order.tolist():
        if not (front[: len(kept)] <= table[at]).all(axis=1).any():
            front[len(kept)] = table[at]
            kept.append(at)
    return np.array(kept, int)
