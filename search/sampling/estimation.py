"""Monte Carlo over several kernel entries: rounds of shards, wherever they are computed, until each has converged.

What was stored of an entry is taken up where it was left, so that a known topology needs no sampling, and every round
is stored, so that an interrupted search loses one round at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from collegium.search.kernel.point import KernelPoint
from collegium.search.progress import Report, scaled
from collegium.search.sampling.shards import PointProgress, ShardResult, ShardSpec, next_shards

#: Shards → their results, in any order; the report runs from 0 to 1 over them, its message adds to the round's.
Compute = Callable[[list[ShardSpec], Report], list[ShardResult]]
#: Share of the progress that the pilot round counts for, before it is known how many samples there will be.
PILOT = 0.05


@dataclass(frozen=True)
class Estimation:
    """How samples are drawn and where estimates are stored.

    ``load(key)`` returns the stored record of a kernel point or None, ``store(key, record)`` stores one.
    """

    relative_error: float
    seed: int
    compute: Compute
    samples: int | None = None
    load: Callable[[str], dict[str, Any] | None] | None = None
    store: Callable[[str, dict[str, Any]], None] | None = None

    def run(self, points: Sequence[KernelPoint], report: Report, message: str) -> list[PointProgress]:
        """Sample every point to the asked error; ``report`` runs from 0 to 1.

        Points that stop short of it (at the largest number of samples) are returned as they are.
        """
        states = [self._stored(point) for point in points]
        fraction = 0.0
        while shards := self._next(states):
            low = max(fraction, self._done(states, shards))
            fraction = max(low, PILOT if low == 0 else 0.98)
            text = f"{message}: {sum(state.moments.count for state in states):,} samples so far"
            results = self.compute(shards, _prefixed(scaled(report, low, fraction), text))
            states = [state.with_results(results) for state in states]
            if self.store is not None:
                sampled = {shard.point.key for shard in shards}
                for state in states:
                    if state.point.key in sampled:
                        self.store(state.point.key, state.record())
        report(1.0, f"{message}: done")
        return states

    def _next(self, states: Sequence[PointProgress]) -> list[ShardSpec]:
        """The next round, without points whose kernel has shown to be zero: no number of samples would change that."""
        alive = [state for state in states if state.moments.count == 0 or state.moments.mean != 0]
        return next_shards(alive, relative_error=self.relative_error, seed=self.seed, samples=self.samples)

    def converged(self, state: PointProgress) -> bool:
        """Whether the point reached the asked error, or has the fixed number of samples that was asked for."""
        return self.samples is not None or state.estimate.converged(self.relative_error)

    def _stored(self, point: KernelPoint) -> PointProgress:
        record = None if self.load is None else self.load(point.key)
        if record is None:
            return PointProgress(point)
        try:
            return PointProgress.resumed(point, record)
        except (ValidationError, KeyError, TypeError, ValueError):
            return PointProgress(point)  # stored by another version: sampled afresh

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
