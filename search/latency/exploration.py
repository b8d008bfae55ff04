"""Which m × n are measured, so that the answers are among them.

Time is no affine function of m, so the primal's m cannot be computed. In every width a line through two measured m
predicts the largest m within the limits, which is measured in turn. Counts and memory grow with m and are exact: their
largest m is found by bisection. The dual's m follows from the variance alone. What is built of a width is measured at a
neighbouring m as well, where all members together have a multiple of ``LANES`` channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from collegium.search.latency.limits import CostLimit, CostName
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.network import Network, StageGrouping
from collegium.search.optimize.candidates import StageSolution
from collegium.search.optimize.limits import ROUNDING_TOLERANCE
from collegium.search.optimize.solve import Solved
from collegium.search.progress import Report, discard, scaled

#: Channels of all members together in multiples of which convolutions are evenly divided.
LANES = 16
#: Most widths that are explored, and how much worse than the best, at equal cost, the worst of them may be.
MOST_WIDTHS, WORST = 18, 2.0
#: Fewest widths that are explored however long the network takes, and calls of the network that a width takes, about:
#: three ensembles, each called nine times or so.
FEWEST_WIDTHS, CALLS_PER_WIDTH = 4, 27
#: Seconds of calls beyond which fewer widths are explored.
SECONDS = 120.0
#: Seconds of measuring, building and warming up included, beyond which no more ensembles are: of a width that was
#: begun, some may be left. A device that takes long to build each shape, or is busy, is bounded so.
MOST_SECONDS = 180.0
#: Rounds in which the largest m within the limits is sought, and most widths of each.
ROUNDS, PER_ROUND = 3, 6
#: Share of the variance of the best so far up to which a width is pursued.
PURSUED = 1.15


def even(widths: tuple[int, ...], m: int) -> int | None:
    """The next larger m, by at most a tenth, with a multiple of 16 channels in every layer; None where there is none.

    >>> even((10, 10), 15), even((16, 16), 3)
    (16, None)
    """
    step = math.lcm(*(LANES // math.gcd(LANES, width) for width in widths))
    more = -(-m // step) * step
    return more if m < more <= 1.1 * m + 1 else None


@dataclass(frozen=True)
class Row:
    """One ensemble: the index of its widths among the solved members (None for the baseline) and its costs.

    Where every stage has its own m and n these are ``stages``, ``widths`` and ``multiplicity`` are the first stage's,
    and there is no index. ``relative`` is its variance over the baseline's in the worst stage. ``costs`` are exact
    counts, bytes, and milliseconds where time is measured, of which ``error`` is the standard error.
    """

    index: int | None
    widths: tuple[int, ...]
    multiplicity: int
    relative: float
    costs: dict[CostName, float]
    error: float | None = None
    stages: StageSolution | None = None

    @property
    def baseline(self) -> bool:
        """Whether it is the baseline."""
        return self.index is None and self.stages is None

    @property
    def members(self) -> list[tuple[int, float]]:
        """m and the variance over the baseline's: those of every stage, or of the worst where all have one m × n."""
        if self.stages is None:
            return [(self.multiplicity, self.relative)]
        own = (one.multiplicity for one in self.stages.stages)
        return list(zip(own, self.stages.relative, strict=False))

    def groupings(self, network: Network) -> tuple[StageGrouping, ...]:
        """The grouping of every stage."""
        if self.stages is None:
            return network.stage_groupings(self.widths, self.multiplicity)
        return self.stages.stages

    def within(self, limits: Iterable[CostLimit]) -> bool:
        """Whether it costs no more than ``limits``."""
        return all(self.costs[limit.cost] <= limit.most * (1 + limit.tolerance) for limit in limits)


def stage_row(network: Network, found: StageSolution, workload: Workload, times: Times | None) -> Row:
    """A choice for every stage with everything that it costs; time is measured where it is asked for."""
    first = found.stages[0]
    costs: dict[CostName, float] = {
        "parameters": network.count_stages("parameters", found.stages),
        "flops": network.count_stages("flops", found.stages),
        "memory": memory_bytes(network, found.stages, workload),
    }
    timing = None if times is None else times.of_stages(found.stages)
    if timing is not None:
        costs["latency"] = 1e3 * timing.seconds
    error = None if timing is None else 1e3 * timing.standard_error
    return Row(None, first.widths, first.multiplicity, max(found.relative), costs, error, found)


@dataclass
class Exploration:
    """Measures ensembles around both optima. ``limits`` has what the primal may spend first, as ``Constraints`` has."""

    network: Network
    solved: Solved
    workload: Workload
    limits: tuple[CostLimit, ...]
    times: Times | None = None
    report: Report = discard
    rows: dict[tuple[tuple[int, ...], int], Row] = field(default_factory=dict)

    def run(self, tolerance: float, answers: Sequence[tuple[int, int]]) -> list[Row]:
        """Every row that was considered, the baseline first; ``answers`` are further (index, m) to be among them.

        ``tolerance`` is that of the variance within which the fastest ensemble is wanted.
        """
        chosen = self._widths()
        first = [(at, m) for at in chosen for m in (self._dual(at), self._parameters(at)) if m is not None]
        even = [(at, more) for at, m in first if (more := self._even(at, m)) is not None]
        self.measure(answers, scaled(self.report, 0.0, 0.1))
        self.measure([*first, *even], scaled(self.report, 0.1, 0.6), MOST_SECONDS)
        for number in range(ROUNDS if self._most_widths() == MOST_WIDTHS else 1):
            share = scaled(self.report, 0.6 + 0.1 * number, 0.7 + 0.1 * number)
            self.measure(self._next(chosen), share, MOST_SECONDS)
        self.measure(self._in_band(chosen, tolerance), scaled(self.report, 0.9, 1.0), MOST_SECONDS)
        if self.best() is None and self.solved.widths:  # the least that there is: it fits, or is named
            self.measure([(int(np.argmin(self.solved.cost.at(1.0))), 1)])
        return list(self.rows.values())

    def measure(self, wanted: Iterable[tuple[int, int]], report: Report = discard, seconds: float = math.inf) -> None:
        """Add rows for (index, m); time is measured where it is asked for, as far as ``seconds`` in all allow."""
        network, solved = self.network, self.solved
        new: dict[tuple[tuple[int, ...], int], int | None] = {}
        if not self.rows:
            new[network.baseline, network.multiplicity] = None
        for index, m in wanted:
            grouping = (solved.widths[index], m)
            if grouping not in self.rows and m <= solved.constraints.most:
                new.setdefault(grouping, index)
        if self.times is not None:
            kept = self.times.affordable(list(new), seconds)
            new = dict(list(new.items())[:kept])
        timings = None if self.times is None else self.times.of(list(new), report)
        for at, ((widths, m), index) in enumerate(new.items()):
            costs = self._counts(widths, m)
            if timings is not None:
                costs["latency"] = 1e3 * timings[at].seconds
            relative = 1.0 if index is None else float(solved.variances.worst[index]) / m
            error = None if timings is None else 1e3 * timings[at].standard_error
            self.rows[widths, m] = Row(index, widths, m, relative, costs, error)

    def best(self) -> Row | None:
        """The smoothest row within the limits."""
        within = [row for row in self.rows.values() if row.index is not None and row.within(self.limits)]
        return min(within, key=lambda row: row.relative, default=None)

    def _counts(self, widths: tuple[int, ...], m: int) -> dict[CostName, float]:
        network = self.network
        return {
            "parameters": network.count("parameters", widths, m),
            "flops": network.count("flops", widths, m),
            "memory": memory_bytes(network, network.stage_groupings(widths, m), self.workload),
        }

    def _widths(self) -> list[int]:
        """Members that cost little for their variance: the best, those of even widths, and a geometric spread."""
        solved = self.solved
        if not solved.widths:
            return []
        per_member = solved.cost.at(2.0) - solved.cost.at(1.0)
        value = solved.variances.worst * per_member
        value = np.where(self._single(), value, np.inf)
        if not np.isfinite(value).any():
            return []
        good = np.flatnonzero(value <= WORST * value.min())
        good = good[np.argsort(value[good], kind="stable")]
        even = [at for at in good.tolist() if all(width % 8 == 0 for width in solved.widths[at])]
        by_width = sorted(good.tolist(), key=lambda at: solved.widths[at])
        spread = [by_width[at] for at in np.unique(np.geomspace(1, len(by_width), 8).round().astype(int) - 1).tolist()]
        chosen = list(dict.fromkeys([*good[:6].tolist(), *even[:5], *spread]))
        most = self._most_widths()
        if most >= len(chosen):
            return chosen
        # of fewer ones, the best, the best of even widths, and then the others in their order
        return list(dict.fromkeys([*good[: most // 2].tolist(), *even[: most // 4], *chosen]))[:most]

    def _single(self) -> np.ndarray:
        """Whether one member is within every limit that is counted, shape (members,)."""
        exact = [limit for limit in self.limits if limit.cost != "latency"]
        return np.array([not exact or self._fits(at, 1, exact) for at in range(len(self.solved.widths))])

    def _most_widths(self) -> int:
        """As many as the time of the baseline allows to be measured in about two minutes; where it is long, a few."""
        seconds = [row.costs["latency"] / 1e3 for row in self.rows.values() if "latency" in row.costs][:1]
        if not seconds:
            return MOST_WIDTHS
        return min(MOST_WIDTHS, max(FEWEST_WIDTHS, int(SECONDS / (CALLS_PER_WIDTH * seconds[0]))))

    def _dual(self, at: int) -> int | None:
        """The fewest members with the baseline's variance in every stage, within the dual's tolerance."""
        m = max(1, math.ceil(float(self.solved.variances.worst[at]) / (1 + ROUNDING_TOLERANCE) - 1e-9))
        if m == 1 and self.solved.variances.worst[at] > 1 + 1e-12:
            m = 2  # a single member has no tolerance
        return self._allowed(at, m, self.limits[1:])

    def _parameters(self, at: int) -> int | None:
        """The most members within the exact limits, or within the parameters of the baseline."""
        exact = [limit for limit in self.limits if limit.cost != "latency"]
        if exact:
            return self._largest(at, exact)
        largest = self.solved.primal_largest[at]
        return None if math.isnan(largest) else int(largest)

    def _even(self, at: int, m: int) -> int | None:
        """The next larger m, by at most a tenth, with a multiple of 16 channels in every layer."""
        more = even(self.solved.widths[at], m)
        return None if more is None else self._allowed(at, more, self.limits[1:])

    def _allowed(self, at: int, m: int, limits: Iterable[CostLimit]) -> int | None:
        exact = [limit for limit in limits if limit.cost != "latency"]
        fits = m <= self.solved.constraints.most and (not exact or self._fits(at, m, exact))
        return m if fits else None

    def _fits(self, at: int, m: int, limits: Iterable[CostLimit]) -> bool:
        widths = self.solved.widths[at]
        return Row(at, widths, m, 0.0, self._counts(widths, m)).within(limits)

    def _largest(self, at: int, limits: Sequence[CostLimit]) -> int | None:
        """By bisection: counts and memory grow with m."""
        low, high = 0, 1
        while high <= self.solved.constraints.most and self._fits(at, high, limits):
            low, high = high, 2 * high
        high = min(high, self.solved.constraints.most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(at, middle, limits) else (low, middle)
        return low or None

    def _next(self, chosen: Sequence[int]) -> list[tuple[int, int]]:
        """The largest m within the limits in the most promising widths, as their measured times predict it."""
        best = self.best()
        bound = math.inf if best is None else PURSUED * best.relative
        found = []
        for at in chosen:
            m = self._predicted(at)
            if m is not None and (self.solved.widths[at], m) not in self.rows:
                relative = float(self.solved.variances.worst[at]) / m
                if relative <= bound:
                    found.append((relative, at, m))
        near = [(at, m) for _, at, m in sorted(found)[:PER_ROUND]]
        return [*near, *((at, more) for at, m in near if (more := self._even(at, m)) is not None)]

    def _predicted(self, at: int) -> int | None:
        """The largest m within every limit; where time is limited, between or beyond those that were measured."""
        exact = [limit for limit in self.limits if limit.cost != "latency"]
        most = self._largest(at, exact) if exact else self.solved.constraints.most
        bounds = [limit.most * (1 + limit.tolerance) for limit in self.limits if limit.cost == "latency"]
        if most is None or not bounds:
            return most
        rows = sorted((row for row in self.rows.values() if row.index == at), key=lambda row: row.multiplicity)
        fits = [row for row in rows if row.costs["latency"] <= min(bounds)]
        over = [row for row in rows if row.costs["latency"] > min(bounds)]
        low, high = (fits[-1] if fits else None), (over[0] if over else None)
        m = self._interpolated(low, high, rows, min(bounds))
        if m is None:
            return None
        if high is not None and low is not None and low.multiplicity < high.multiplicity:
            m = min(max(m, low.multiplicity + 1), high.multiplicity - 1)
        return max(1, min(m, most))

    def _interpolated(self, low: Row | None, high: Row | None, rows: Sequence[Row], bound: float) -> int | None:
        """m at ``bound`` on the line through the rows on both sides of it, or through the last two on one side."""
        pair = [row for row in (low, high) if row is not None]
        if len(pair) < 2:
            pair = list(rows[-2:] if high is None else rows[:2])
        if not pair:
            return None
        (x, y), (u, v) = [(row.multiplicity, row.costs["latency"]) for row in (pair[0], pair[-1])]
        slope = (v - y) / (u - x) if u > x else y / x
        return math.floor(x + (bound - y) / slope) if slope > 0 else None

    def _in_band(self, chosen: Sequence[int], tolerance: float) -> list[tuple[int, int]]:
        """The fewest members of each width whose variance is within the tolerance of the best one's."""
        best = self.best()
        if best is None:
            return []
        wanted = []
        for at in chosen:
            m = math.ceil(float(self.solved.variances.worst[at]) / ((1 + tolerance) * best.relative) - 1e-9)
            wanted += [(at, found) for found in (max(2, m), self._even(at, max(2, m))) if found is not None]
        return wanted
