"""Monte Carlo over several kernel entries: rounds of shards, wherever they are computed, until each has converged.

Every round is stored, so that an interrupted search loses one round at most, and samples that were drawn before are
taken up. What is stored of an entry depends on the seed and the kind of device as well, and an estimate ends where it
would have ended without, so reuse never changes an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from collegium.search.kernel.point import KernelPoint
from collegium.search.progress import Report, scaled
from collegium.search.sampling.shards import Asked, PointProgress, ShardResult, ShardSpec, next_shards

#: Shards → their results, in any order; the report runs from 0 to 1 over them, its message adds to the round's.
Compute = Callable[[list[ShardSpec], Report], list[ShardResult]]
#: Share of the progress that the pilot round counts for, before it is known how many samples there will be.
PILOT = 0.05
#: Relative standard error of ln r up to which a fixed number of samples counts as converged: beyond it, the samples say
#: little more than the order of magnitude.
LARGEST_ERROR = 0.5
#: Raised whenever schedules or records change in a way that makes stored samples unusable.
RECORD_VERSION = 2


@dataclass
class Known:
    """What one search has of its points, by storage key, and how many of these samples were stored before it."""

    progress: dict[str, PointProgress] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimation:
    """How samples are drawn and where they are stored.

    ``load(key)`` returns the stored record of a point's samples or None, ``store(key, record)`` stores one. ``device``
    is the kind of device that computes shards, on which a seed's numbers depend. ``most`` bounds the samples of a
    point.
    """

    relative_error: float
    seed: int
    compute: Compute
    samples: int | None = None
    load: Callable[[str], dict[str, Any] | None] | None = None
    store: Callable[[str, dict[str, Any]], None] | None = None
    device: str = "cpu"
    most: int | None = None
    known: Known = field(default_factory=Known)

    def run(self, points: Sequence[KernelPoint], report: Report, message: str) -> list[PointProgress]:
        """Sample every point to the asked error; ``report`` runs from 0 to 1.

        Points that stop short of it (at the largest number of samples, or out of reach) are returned as they are.
        """
        states = [self._begun(point) for point in points]
        fraction = 0.0
        while shards := next_shards(states, self._asked, seed=self.seed):
            low = max(fraction, self._done(states, shards))
            fraction = max(low, PILOT if low == 0 else 0.98)
            text = f"{message}: {sum(state.moments.count for state in states):,} samples so far"
            results = self.compute(shards, _prefixed(scaled(report, low, fraction), text))
            states = [state.with_results(results) for state in states]
            self._keep(states, {shard.point.key for shard in shards})
        ended = [state.ended(self._asked) for state in states]
        for state in ended:
            key = self.storage_key(state.point)
            self.known.used[key] = max(state.moments.count, self.known.used.get(key, 0))
        report(1.0, f"{message}: done")
        return ended

    def converged(self, state: PointProgress) -> bool:
        """Whether ln r has the asked relative error; with a fixed number of samples, at most ``LARGEST_ERROR``."""
        return state.estimate.converged(self.relative_error if self.samples is None else LARGEST_ERROR)

    def storage_key(self, point: KernelPoint) -> str:
        """The key under which a point's samples are stored: all that decides their numbers (SHA-256, hex)."""
        drawn = "any" if self.samples is None else self.samples
        text = f"{RECORD_VERSION}:{point.key}:{self.seed}:{self.device}:{drawn}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def reused(self) -> int:
        """Samples so far that were not drawn but stored before."""
        return sum(min(count, self.known.used.get(key, 0)) for key, count in self.known.stored.items())

    @property
    def _asked(self) -> Asked:
        return Asked(self.relative_error, self.samples, self.most)

    def _begun(self, point: KernelPoint) -> PointProgress:
        key = self.storage_key(point)
        if key not in self.known.progress:
            state = self._stored(PointProgress(point, self.samples), key)
            self.known.progress[key] = state
            self.known.stored[key] = state.moments.count
        return replace(self.known.progress[key], point=point)

    def _stored(self, state: PointProgress, key: str) -> PointProgress:
        record = None if self.load is None else self.load(key)
        if record is None:
            return state
        try:
            return state.resumed(record)
        except (ValidationError, KeyError, TypeError, ValueError):
            return state  # stored by another version: sampled afresh

    def _keep(self, states: Sequence[PointProgress], sampled: set[str]) -> None:
        for state in {state.point.key: state for state in states if state.point.key in sampled}.values():
            key = self.storage_key(state.point)
            self.known.progress[key] = state
            if self.store is not None:
                self.store(key, state.record())

    def _done(self, states: Sequence[PointProgress], shards: Sequence[ShardSpec]) -> float:
        """Samples so far over those so far and in this round."""
        have = sum(state.moments.count for state in states)
        return have / (have + sum(shard.samples for shard in shards))


def _prefixed(report: Report, text: str) -> Report:
    def prefixed(fraction: float, message: str) -> None:
        report(fraction, f"{text}, {message}" if message else text)

    prefixed(0.0, "")
    return prefixed


def relaxed(estimation: Estimation, factor: float) -> Estimation:
    """The same with a relative error ``factor`` times larger (and as many times fewer samples, squared)."""
    samples = None if estimation.samples is None else max(100, round(estimation.samples / factor**2))
    return replace(estimation, relative_error=min(0.5, estimation.relative_error * factor), samples=samples)
