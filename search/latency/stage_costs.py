"""Memory and time as sums over stages, of which a network's memory is the largest and its time the only one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from collegium.search.latency.memory import Held, held
from collegium.search.latency.parts import by_stage
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.network import Network, StageGrouping
from collegium.search.networks.segment import Repeated, footprints_of

#: Least slope of a time in m beyond what was measured, over the time for each member there.
LEAST_SLOPE = 0.25


@dataclass
class StageMemory:
    """The bytes of a workload: the largest of the sums that hold while one of the network's stages, or its ends, runs.

    Exact: what stages hold composes (``memory.Held``), so that no sum over stages is an approximation.
    """

    network: Network
    workload: Workload
    _known: dict[tuple[int, tuple[int, ...], int], Held] = field(default_factory=dict)

    @cached_property
    def _places(self) -> list[tuple[int | None, Held]]:
        """The stages and what is between them in order, with what the baseline's hold."""
        groups = by_stage(self.network, self.workload.image_size)
        return [(stage, held(footprints_of(parts), self.workload)) for stage, parts in groups]

    @property
    def fixed(self) -> tuple[float, ...]:
        """What is between stages holds, while each of the places runs."""
        return self._fixed

    @cached_property
    def _fixed(self) -> tuple[float, ...]:
        return tuple(
            float(sum(_at(one, at, running) for at, (stage, one) in enumerate(self._places) if stage is None))
            for running in range(len(self._places))
        )

    def terms(
        self, stage: int, widths: Sequence[tuple[int, ...]], index: np.ndarray, multiplicity: np.ndarray
    ) -> np.ndarray:
        """What candidates of a stage hold while each of the places runs, shape (places, candidates)."""
        at = [own for own, _ in self._places].index(stage)
        each = [
            self._held(stage, widths[which], int(m))
            for which, m in zip(index.tolist(), multiplicity.tolist(), strict=True)
        ]
        rows = [[_at(one, at, running) for one in each] for running in range(len(self._places))]
        return np.array(rows, float).reshape(len(rows), len(each))

    def _held(self, stage: int, widths: tuple[int, ...], multiplicity: int) -> Held:
        key = (stage, widths, multiplicity)
        if key not in self._known:
            parts = self.network.stage_segments(stage, StageGrouping(widths, multiplicity), self.workload.image_size)
            self._known[key] = held(footprints_of(parts), self.workload)
        return self._known[key]


def _at(one: Held, at: int, running: int) -> int:
    """What the place ``at`` holds while ``running`` runs."""
    return one.own if at == running else one.later if at < running else one.earlier


@dataclass
class StageTimes:
    """Milliseconds of a workload: those of every stage, measured for some m of some widths, and of what is between.

    Between two measured m of the same width, and beyond them, a line through them predicts the time.
    """

    network: Network
    times: Times
    #: Milliseconds by m, for each width vector of every stage that was measured.
    measured: dict[tuple[int, tuple[int, ...]], dict[int, float]] = field(default_factory=dict)

    @property
    def fixed(self) -> tuple[float, ...]:
        """What no grouping changes."""
        return self._fixed

    @cached_property
    def _fixed(self) -> tuple[float, ...]:
        groups = by_stage(self.network, self.times.workload.image_size)
        parts = [part for stage, own in groups if stage is None for part in own]
        return (1e3 * self.times.of_parts([parts])[0].seconds,)

    def parts(self, stage: int, grouping: StageGrouping) -> list[Repeated]:
        """The parts of one stage."""
        return self.network.stage_segments(stage, grouping, self.times.workload.image_size)

    def add(self, stage: int, grouping: StageGrouping, seconds: float) -> None:
        """Take a measured time of a stage."""
        self.measured.setdefault((stage, grouping.widths), {})[grouping.multiplicity] = 1e3 * seconds

    def knows(self, stage: int, grouping: StageGrouping) -> bool:
        """Whether the time of this grouping of a stage was measured."""
        return grouping.multiplicity in self.measured.get((stage, grouping.widths), ())

    def terms(
        self, stage: int, widths: Sequence[tuple[int, ...]], index: np.ndarray, multiplicity: np.ndarray
    ) -> np.ndarray:
        """Measured or predicted times, shape (1, candidates); infinite for widths of which none was measured."""
        found = np.full(len(index), np.inf)
        for which in np.unique(index).tolist():
            known = self.measured.get((stage, widths[which]))
            if known:
                here = index == which
                found[here] = predicted(known, multiplicity[here])
        return found[None]


def predicted(known: dict[int, float], multiplicity: np.ndarray) -> np.ndarray:
    """Times at other m, linear between and beyond the measured ones; proportional to m where there is one alone.

    >>> predicted({2: 3.0, 4: 5.0, 5: 9.0}, np.array([1.0, 2.0, 3.0, 4.0, 6.0]))
    array([ 2.,  3.,  4.,  5., 13.])
    """
    m = np.array(sorted(known), float)
    times = np.array([known[int(one)] for one in m])
    if len(m) == 1:
        return times[0] * multiplicity / m[0]
    slopes = np.maximum(np.diff(times) / np.diff(m), LEAST_SLOPE * times[1:] / m[1:])
    low = np.maximum(times[0] + slopes[0] * (multiplicity - m[0]), LEAST_SLOPE * times[0])
    high = times[-1] + slopes[-1] * (multiplicity - m[-1])
    within = np.interp(multiplicity, m, times)
    return np.where(multiplicity < m[0], low, np.where(multiplicity > m[-1], high, within))
