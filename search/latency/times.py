"""Times of grouped networks as sums over their segments, and the check of such sums against whole networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from collegium.search.latency.bench import Bench
from collegium.search.latency.measure import Load, Store, Timing, Timings, in_turn, measure, stored_key
from collegium.search.latency.parts import segments, whole
from collegium.search.latency.result import WholeCheck
from collegium.search.latency.workload import Workload
from collegium.search.networks.network import Network, StageGrouping
from collegium.search.networks.segment import Repeated, Segment
from collegium.search.optimize.built import label_of
from collegium.search.progress import Report, discard, scaled

#: Widths and multiplicity of one ensemble.
Grouping = tuple[tuple[int, ...], int]


@dataclass
class Times:
    """Times of a network's groupings under one workload; a distinct segment is measured once, or read by ``load``.

    The parts of the first grouping, the baseline, are the anchor of all later measurements. ``spent`` are the seconds
    by ``clock`` that measuring has taken: building, warming up and repetitions included.
    """

    network: Network
    workload: Workload
    bench: Bench
    load: Load | None = None
    store: Store | None = None
    clock: Callable[[], float] = time.monotonic
    spent: float = 0.0
    _known: dict[Segment, Timing] = field(default_factory=dict)
    _reused: set[Segment] = field(default_factory=set)
    _anchor: dict[Segment, Timing] = field(default_factory=dict)

    @property
    def reused(self) -> int:
        """Segments whose time an earlier measurement had stored."""
        return len(self._reused)

    @property
    def measured(self) -> int:
        """Segments that were timed now."""
        return len(self._known) - self.reused

    def with_threads_that_pay(self, grouping: Grouping, report: Report = discard) -> Times:
        """These, or those of one thread, where no number of threads was given and one is faster.

        So it is where a network is small, and where other programs keep the cores: threads that wait for each other
        may then take many times as long, by chance, and their times mean nothing.
        """
        chosen = self.workload.threads is not None or not self.bench.threaded
        if chosen or self.bench.threads(self.workload) == 1:
            return self
        workload = self.workload.model_copy(update={"threads": 1})
        single = Times(self.network, workload, self.bench, self.load, self.store, self.clock)
        (alone,) = single.of([grouping], scaled(report, 0.0, 0.5))
        (together,) = self.of([grouping], scaled(report, 0.5, 1.0))
        return single if alone.seconds < together.seconds else self

    def of(self, groupings: Sequence[Grouping], report: Report = discard) -> list[Timing]:
        """The time of each grouping, in seconds."""
        return self.of_parts([self._parts(self.network.stage_groupings(*one)) for one in groupings], report)

    def of_parts(self, parts: Sequence[Sequence[Repeated]], report: Report = discard) -> list[Timing]:
        """The time of each sequence of parts, in seconds; the first sequence of all is the baseline's."""
        new = [part.segment for each in parts for part in each if part.segment not in self._known]
        started = self.clock()
        found = measure(
            new, self.workload, self.bench, anchor=self._anchor, load=self.load, store=self.store, report=report
        )
        self.spent += self.clock() - started
        self._known.update(found.of)
        self._reused |= found.reused
        if not self._anchor and parts:
            self._anchor = {part.segment: self._known[part.segment] for part in parts[0]}
        timings = Timings(self._known, found.reused)
        return [timings.total(each) for each in parts]

    def affordable(self, groupings: Sequence[Grouping], seconds: float) -> int:
        """How many of the groupings, from the first on, are measured within ``seconds`` in all, at the pace so far.

        All of them where nothing has been measured yet: times that are stored take none.
        """
        return self.affordable_parts((self._parts(self.network.stage_groupings(*one)) for one in groupings), seconds)

    def affordable_parts(self, parts: Iterable[Sequence[Repeated]], seconds: float) -> int:
        """``affordable`` of sequences of parts."""
        pace, ahead, count = self.spent / max(1, self.measured), set[Segment](), 0
        for each in parts:
            ahead |= {part.segment for part in each if part.segment not in self._known}
            if self.spent + pace * len(ahead) > seconds:
                break
            count += 1
        return count

    def of_stages(self, stages: Sequence[StageGrouping]) -> Timing:
        """The time of a network whose stages are grouped so, in seconds."""
        return self.of_parts([self._parts(stages)])[0]

    def check(self, groupings: Sequence[Sequence[StageGrouping]], report: Report = discard) -> tuple[WholeCheck, ...]:
        """Each grouping whole and as a sum, measured in turn; empty where whole networks are the segments."""
        checks = []
        for index, grouping in enumerate(groupings):
            if len(self._parts(grouping)) > 1:
                share = scaled(report, index / len(groupings), (index + 1) / len(groupings))
                checks.append(self._check(grouping, share))
        return tuple(checks)

    def _check(self, grouping: Sequence[StageGrouping], report: Report) -> WholeCheck:
        own = whole(self.network, grouping, self.workload.image_size)
        key = "check-" + stored_key(own, self.workload, self.bench)
        record = self.load(key) if self.load is not None else None
        if record is None:
            parts = self._parts(grouping)
            each = dict.fromkeys(part.segment for part in parts)
            timings = Timings(in_turn([own, *each], self.workload, self.bench, report), frozenset())
            record = {"whole": timings.of[own].record(), "sum": timings.total(parts).record()}
            if self.store is not None:
                self.store(key, record)
        one, total = Timing(**record["whole"]), Timing(**record["sum"])
        # at the speed at which the parts were measured first
        scale = 1e3 * Timings(self._known, frozenset()).total(self._parts(grouping)).seconds / total.seconds
        return WholeCheck(
            widths=grouping[0].widths,
            multiplicity=grouping[0].multiplicity,
            label=label_of(self.network, grouping),
            whole_ms=scale * one.seconds,
            whole_error_ms=scale * one.standard_error,
            sum_ms=scale * total.seconds,
            sum_error_ms=scale * total.standard_error,
            deviation=total.seconds / one.seconds - 1,
        )

    def _parts(self, stages: Sequence[StageGrouping]) -> list[Repeated]:
        return segments(self.network, stages, self.workload.image_size)
