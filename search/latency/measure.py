"""Times of distinct segments: measured in rounds, stored, and read back.

Segments are visited in turn, once in every round, as a network visits its parts: each finds its weights and inputs
where the others left the caches, and a busy moment of the machine falls on all of them. One that is repeated by itself
runs some 7 % faster on a processor than it does in its network, which visiting in turn removes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from collegium.search.latency.bench import Bench, Timer
from collegium.search.latency.memory import peak_bytes
from collegium.search.latency.workload import Workload
from collegium.search.networks.segment import Repeated, Segment
from collegium.search.progress import Report, discard

#: Raised whenever times come about in a way that makes stored ones incomparable.
VERSION = 1
#: Least seconds of one visit: shorter segments are called several times, as they are in a network of their size.
VISIT = 1e-3
#: Rounds over all segments, and the relative standard error at which fewer are enough.
FEWEST, USUAL, MOST = 5, 9, 300
ENOUGH = 0.02
#: Seconds of measurement up to which segments are measured in more than the usual rounds.
BRIEF = 3.0
#: Seconds of measurement from which the fewest rounds are enough.
LONG = 30.0

Load = Callable[[str], dict[str, Any] | None]
Store = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over ``rounds``, and its standard error from their spread."""

    seconds: float
    standard_error: float
    rounds: int

    @classmethod
    def of(cls, times: Sequence[float]) -> Timing:
        """The median of ``times``; its standard error is 1.25 σ/√rounds, σ from their quartiles.

        >>> Timing.of([1.0, 1.1, 1.2, 1.1, 9.0]).seconds
        1.1
        """
        low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
        return cls(float(median), float(1.2533 * (high - low) / 1.349 / math.sqrt(len(times))), len(times))

    def record(self) -> dict[str, Any]:
        """Its fields, as they are stored."""
        return asdict(self)


@dataclass(frozen=True)
class Timings:
    """Times by segment; ``reused`` of them were stored by earlier measurements."""

    of: Mapping[Segment, Timing]
    reused: frozenset[Segment]

    def total(self, parts: Iterable[Repeated]) -> Timing:
        """Seconds of segments that run one after another, errors added as those of independent times.

        Raises ``KeyError`` for a segment that was not measured.
        """
        chosen = [(part.count, self.of[part.segment]) for part in parts]
        return Timing(
            sum(count * timing.seconds for count, timing in chosen),
            math.sqrt(sum((count * timing.standard_error) ** 2 for count, timing in chosen)),
            min(timing.rounds for _, timing in chosen),
        )


def measure(
    segments: Iterable[Segment],
    workload: Workload,
    bench: Bench,
    *,
    anchor: Mapping[Segment, Timing] | None = None,
    load: Load | None = None,
    store: Store | None = None,
    report: Report = discard,
) -> Timings:
    """The time of each distinct segment, read by ``load`` where it is stored, else measured and stored by ``store``.

    Segments of ``anchor``, whose times are known, are measured again among the new ones, which are scaled by how much
    longer these take now: a machine that other work slows down for minutes gives comparable times.
    """
    distinct = list(dict.fromkeys(segments))
    keys = {segment: stored_key(segment, workload, bench) for segment in distinct}
    found = {}
    for segment in distinct:
        record = load(keys[segment]) if load is not None else None
        if record is not None:
            found[segment] = Timing(**record)
    reused = frozenset(found)
    missing = [segment for segment in distinct if segment not in reused]
    for done, group in _groups(missing, workload, bench.room):
        share = _share(report, done, len(group), len(missing))
        timings = in_turn(list(dict.fromkeys([*(anchor or ()), *group])), workload, bench, share)
        for segment in group:
            found[segment] = _anchored(timings[segment], timings, anchor or {})
            if store is not None:
                store(keys[segment], found[segment].record())
    return Timings(found, reused)


def _anchored(timing: Timing, now: Mapping[Segment, Timing], anchor: Mapping[Segment, Timing]) -> Timing:
    """A time as it would have been when the anchor's were measured; the error of their ratio is part of its own."""
    if not anchor:
        return timing
    before, after = sum(one.seconds for one in anchor.values()), sum(now[segment].seconds for segment in anchor)
    squares = sum((now[segment].standard_error / after) ** 2 for segment in anchor)
    factor = before / after
    error = factor * math.hypot(timing.standard_error, timing.seconds * math.sqrt(squares))
    return Timing(factor * timing.seconds, error, timing.rounds)


def in_turn(
    segments: Sequence[Segment], workload: Workload, bench: Bench, report: Report = discard
) -> dict[Segment, Timing]:
    """Times of segments that are visited in turn, measured now; all of them are built at once."""
    with bench.settings(workload):
        timers = {segment: bench.prepare(segment, workload) for segment in segments}
        calls = {segment: _calls(timer) for segment, timer in timers.items()}
        times: dict[Segment, list[float]] = {segment: [] for segment in segments}
        timings: dict[Segment, Timing] = {}
        for done in range(MOST):
            for index, (segment, timer) in enumerate(timers.items()):
                report(min(1.0, (done + index / len(timers)) / USUAL), "measuring times")
                times[segment].append(timer(calls[segment]))
            timings = {segment: Timing.of(seen) for segment, seen in times.items()}
            spent = sum(calls[segment] * sum(seen) for segment, seen in times.items())
            if _enough(timings.values(), done + 1, spent):
                break
    return timings


def _enough(timings: Iterable[Timing], rounds: int, spent: float) -> bool:
    if rounds >= USUAL and spent >= BRIEF:
        return True
    return rounds >= FEWEST and (spent >= LONG or all(one.standard_error <= ENOUGH * one.seconds for one in timings))


def _calls(timer: Timer) -> int:
    """Calls of one visit; the first ones warm up caches, kernels and the allocator, and are not counted."""
    timer(1)
    return max(1, math.ceil(VISIT / max(timer(1), 1e-9)))


def _groups(segments: Sequence[Segment], workload: Workload, room: int) -> Iterable[tuple[int, list[Segment]]]:
    """Segments in order, in groups that have room together, or alone, each with how many were before it."""
    group: list[Segment] = []
    done = held = 0
    for segment in segments:
        own = peak_bytes(segment.footprints, workload)
        if group and held + own > room:
            yield done, group
            done, group, held = done + len(group), [], 0
        group.append(segment)
        held += own
    if group:
        yield done, group


def _share(report: Report, done: int, part: int, total: int) -> Report:
    def share(fraction: float, message: str) -> None:
        report((done + part * fraction) / total, message)

    return share


def stored_key(segment: Segment, workload: Workload, bench: Bench) -> str:
    """What a time depends on: the machine with its software, the threads, the workload and the segment."""
    ignored = {"image_size", "threads"} if workload.training else {"image_size", "threads", "optimizer"}
    content = {
        "version": VERSION,
        "machine": bench.machine,
        "threads": bench.threads(workload),
        "workload": workload.model_dump(mode="json", exclude=ignored),
        "segment": segment.key,
    }
    return "latency-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
