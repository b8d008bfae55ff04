"""One group of branches: which of its m × n have the least variance at the budget, and which cost least.

Every candidate is the whole module with this group regrouped. The primal's m follows from the budget, so its candidates
differ in the width alone: a few at geometric steps are measured roughly, those that may be the best well, and one more
where a parabola through the logarithms has its minimum. For the dual m comes down from there. A network's variance is
about a + b/m, of which a is that of what is not regrouped; m · ratio members would have the baseline's variance if a
were 0, and have no more otherwise, since at a ratio below 1 fewer members raise b/m alone. Two measurements give a and
b, and a smaller m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from collegium.search.kernel.inputs import KernelInputs
from collegium.search.optimize.limits import ROUNDING_TOLERANCE, Constraints
from collegium.search.optimize.members import holds
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.solve import Solved, solve
from collegium.search.progress import Report, scaled
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.plain.measuring import Measuring, Ratio
from collegium.search.whole_network.plain.part import MeasuredPart

#: Widths that are measured roughly, where the space lists none, and the relative error of that.
GRID, ROUGH = 8, 0.25
#: Members whose dual is measured, and measurements of each.
DUALS, DUAL_ROUNDS = 3, 2
#: Shares of the time until which candidates are measured roughly, and well, and those of the dual.
ROUGHLY, WELL, DUALS_UNTIL = 0.25, 0.6, 1.0


@dataclass(frozen=True)
class Found:
    """What was measured of a group: ratios at the primal's m, widest first, and the choices among them.

    ``primal`` and ``dual`` are None where nothing measured is better than the baseline, or cheaper.
    """

    part: MeasuredPart
    problem: GroupingProblem
    constraints: Constraints
    solved: Solved
    rows: tuple[tuple[int, Ratio], ...]
    primal: Ratio | None
    dual: Ratio | None

    def real_multiplicity(self, index: int) -> float:
        """The real m of a row at the budget."""
        return float(self.solved.primal_real[index])


def search_group(
    part: MeasuredPart, spec: SearchSpec, measuring: Measuring, begin: float, end: float, report: Report
) -> Found:
    """Measure a group in the time from the share ``begin`` of the search's to ``end``."""
    return _Group(part, spec, measuring, begin, end, report).run()


@dataclass
class _Group:
    part: MeasuredPart
    spec: SearchSpec
    measuring: Measuring
    begin: float
    end: float
    report: Report

    def __post_init__(self) -> None:
        self.problem = GroupingProblem(self.spec, self.part, KernelInputs())
        self.constraints = Constraints(
            network=self.part,
            measure=self.problem.measure,
            limits=self.problem.limits,
            baseline_variances=(1.0,),
            max_multiplicity=self.spec.space.max_multiplicity,
            baseline_allowed=holds(self.part, self.spec.space),
        )
        members = self.problem.members
        self.solved = solve(self.constraints, members, np.full(len(members), math.log(2)))
        self.well = self.measuring.spec.relative_error
        self.ratios: dict[int, Ratio] = {}

    def run(self) -> Found:
        """Roughly, well, between, and the dual."""
        feasible = self._feasible()
        if not feasible:  # the baseline alone
            self.measuring.ratios([], max(ROUGH, self.well), self._until(ROUGHLY), self.report)
        self._measure(self._grid(feasible), max(ROUGH, self.well), ROUGHLY)
        self._measure(self._close(), self.well, WELL)
        between = self._between(feasible)
        if between is not None:
            self._measure([between], self.well, WELL)
        primal = self._primal()
        dual = self._dual()
        rows = tuple(sorted(self.ratios.items(), key=lambda item: self.solved.widths[item[0]]))
        return Found(self.part, self.problem, self.constraints, self.solved, rows, primal, dual)

    def _feasible(self) -> list[int]:
        """Members of which the budget buys two or more."""
        return [index for index, m in enumerate(self.solved.primal_integer.tolist()) if m >= 2]

    def _grid(self, feasible: list[int]) -> list[int]:
        """All that are listed, or a few at geometric steps of the width."""
        if self.spec.space.widths is not None or len(feasible) <= GRID:
            return feasible
        first = [self.solved.widths[index][0] for index in feasible]
        steps = np.geomspace(first[0], first[-1], GRID)
        return sorted({feasible[int(np.abs(np.array(first) - step).argmin())] for step in steps})

    def _measure(self, indices: list[int], relative_error: float, until: float) -> None:
        if not indices:
            return
        begin = min(0.98, len(self.ratios) / (GRID + 2))
        share = scaled(self.report, begin, 0.99)
        candidates = [self._candidate(index, int(self.solved.primal_integer[index])) for index in indices]
        found = self.measuring.ratios(candidates, relative_error, self._until(until), share)
        self.ratios.update(zip(indices, found, strict=True))

    def _until(self, share: float) -> float:
        return self.begin + share * (self.end - self.begin)

    def _candidate(self, index: int, m: int):
        widths, part = self.solved.widths[index], self.part
        parameters = part.count("parameters", widths, m)
        return self.measuring.candidate(f"{m}×{widths[0]}", widths, m, parameters, part.groupings(widths, m))

    def _close(self) -> list[int]:
        """Those that may be the best one, or less than the baseline, as far as is known."""
        if not self.ratios:
            return []
        least = min(each.value + 2 * each.standard_error for each in self.ratios.values())
        return [index for index, each in self.ratios.items() if each.low <= least]

    def _between(self, feasible: list[int]) -> int | None:
        """The member next to the minimum of a parabola through ln ratio over ln n, where there is one inside."""
        known = [index for index, each in self.ratios.items() if each.value > 0 and each.standard_error > 0]
        if self.spec.space.widths is not None or len(known) < 4:
            return None
        x = np.log([self.solved.widths[index][0] for index in known])
        y = np.log([self.ratios[index].value for index in known])
        errors = np.array([self.ratios[index].standard_error / self.ratios[index].value for index in known])
        curvature, slope, _ = np.polyfit(x, y, 2, w=1 / np.maximum(errors, 1e-6))
        if curvature <= 0:
            return None
        best = math.exp(float(np.clip(-slope / (2 * curvature), x.min(), x.max())))
        first = np.array([self.solved.widths[index][0] for index in feasible], float)
        index = feasible[int(np.abs(np.log(first / best)).argmin())]
        return index if index not in self.ratios else None

    def _primal(self) -> Ratio | None:
        """The least ratio that was measured well, or at all where none was; None where the baseline is no worse."""
        good = [each for each in self.ratios.values() if each.converged] or list(self.ratios.values())
        least = min(good, key=lambda each: each.value, default=None)
        fits = self.constraints.baseline_fits(self.constraints.limits)
        return None if least is None or (fits and not least.value < 1) else least

    def _dual(self) -> Ratio | None:
        """The cheapest ensemble within the baseline's variance that was found, and cheaper than it."""
        starts = sorted(
            (self._cost(index, m), index, m)
            for index, each in self.ratios.items()
            if each.value <= 1 and (m := self._fewest(each.candidate.multiplicity * each.value)) is not None
        )
        tried: list[Ratio] = []
        wanted = {index: m for _, index, m in starts[:DUALS]}
        for round_ in range(DUAL_ROUNDS):
            candidates = [self._candidate(index, m) for index, m in wanted.items()]
            if not candidates:
                break
            until = self._until(WELL + (DUALS_UNTIL - WELL) * (round_ + 1) / DUAL_ROUNDS)
            report = scaled(self.report, 0.9, 0.99)
            found = dict(zip(wanted, self.measuring.ratios(candidates, self.well, until, report), strict=True))
            tried += found.values()
            wanted = self._next(found, wanted)
        tried += [each for each in self.ratios.values() if each.converged]
        base = self.constraints.baseline_count
        good = [each for each in tried if each.value <= 1 + ROUNDING_TOLERANCE and self._allowed(each)]
        best = min(good, key=lambda each: self._count(each), default=None)
        return best if best is not None and self._count(best) < base else None

    def _fewest(self, real: float) -> int | None:
        """The integer at which the variance is at most 2.5 % above that of the real m; an ensemble has two or more."""
        m = max(2, math.ceil(real / (1 + ROUNDING_TOLERANCE)))
        return m if m <= self.constraints.most else None

    def _next(self, found: dict[int, Ratio], wanted: dict[int, int]) -> dict[int, int]:
        """Another m for each, by a + b/m through what was measured at the primal's m and now."""
        more = {}
        for index, now in found.items():
            first, m = self.ratios[index], wanted[index]
            primal = first.candidate.multiplicity
            if primal == m:
                continue
            b = (now.value - first.value) / (1 / m - 1 / primal)
            a = first.value - b / primal
            if b <= 0 or a >= 1:
                continue
            guess = self._fewest(b / (1 - max(0.0, a)))
            if guess is not None and guess != m and guess < primal:
                more[index] = guess
        return more

    def _cost(self, index: int, m: int) -> int:
        return self.part.count(self.constraints.measure, self.solved.widths[index], m)

    def _count(self, each: Ratio) -> int:
        return self.part.count(self.constraints.measure, each.candidate.widths, each.candidate.multiplicity)

    def _allowed(self, each: Ratio) -> bool:
        """Whether the limits that were given hold, beside the budget."""
        own = each.candidate
        return all(
            self.part.count(limit.measure, own.widths, own.multiplicity) <= limit.bound
            for limit in self.constraints.limits[1:]
        )
