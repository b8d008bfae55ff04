"""Rounds of Monte Carlo: shards of a point's samples, as many as the asked error needs, judged at fixed boundaries.

A shard's numbers depend on ``(seed, point.key, index, samples)`` alone, and where a point's shards begin and end on its
schedule alone, so a result is the same wherever they are computed, in any order and any number at a time.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from collegium.search.kernel.moments import Estimate, Moments, merge_extremes
from collegium.search.kernel.point import KernelPoint
from collegium.search.sampling.schedule import Schedule

#: No round takes a point's samples further than this factor: a pilot's error is itself uncertain.
GROWTH = 16
#: Samples beyond those that the present error predicts, so that the check after a round mostly passes.
MARGIN = 1.1
#: Samples after which a point is given up that would need this many times more than it may have.
HOPELESS_SAMPLES, HOPELESS_FACTOR = 1 << 16, 1.5


class ShardSpec(BaseModel):
    """A part of a point's samples, to be computed anywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    point: KernelPoint
    index: int = Field(ge=0)
    samples: int = Field(ge=1)
    seed: int = Field(ge=0)

    @property
    def generator_seed(self) -> int:
        """63 bits that depend on the seed, the point and the shard's index alone."""
        text = f"{self.seed}:{self.point.key}:{self.index}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class ShardResult(BaseModel):
    """The moments of one shard's samples; ``key`` and ``index`` name the shard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    index: int
    moments: Moments


@dataclass(frozen=True)
class Asked:
    """When a point is done: at this relative standard error of ln r, and at ``most`` samples in any case.

    With ``samples`` it is done after that many.
    """

    relative_error: float
    samples: int | None = None
    most: int | None = None

    def ends(self, estimate: Estimate, last: int) -> bool:
        """Whether sampling ends here; ``last`` is the number of samples that the point's schedule ends with.

        It ends converged, at the last sample, at a kernel of which no sample was anything but zero (then r is over a
        thousand, and beyond sampling), or where it is out of reach.
        """
        if estimate.samples >= last or not estimate.mean or self.samples is not None:
            return True
        if estimate.converged(self.relative_error):
            return True
        return estimate.samples >= HOPELESS_SAMPLES and self.needed(estimate) > HOPELESS_FACTOR * last

    def needed(self, estimate: Estimate) -> float:
        """Samples that the present error predicts for the asked one, and without which ``Estimate.saturated``."""
        return max(estimate.samples * (estimate.relative_error / self.relative_error) ** 2, estimate.ratio**2)

    def last(self, schedule: Schedule) -> int:
        """Index of the last boundary that may be reached."""
        if self.most is None or self.samples is not None:
            return len(schedule.boundaries) - 1
        return max(0, bisect_left(schedule.boundaries, self.most + 1) - 1)


@dataclass(frozen=True)
class PointProgress:
    """What is known of one point: the merged moments of its samples at each boundary that was reached.

    ``samples`` fixes their number, see ``Schedule.of``.
    """

    point: KernelPoint
    samples: int | None = None
    reached: tuple[Moments, ...] = ()

    @cached_property
    def schedule(self) -> Schedule:
        """The point's boundaries and shards."""
        return Schedule.of(self.point, self.samples)

    @property
    def moments(self) -> Moments:
        """The moments at the last boundary reached; none before the first."""
        return self.reached[-1] if self.reached else Moments()

    @cached_property
    def estimates(self) -> tuple[Estimate, ...]:
        """The estimates at each boundary that was reached."""
        chain = self.point.chain
        layers, homogeneous = len(chain.layers), chain.homogeneous
        return tuple(moments.estimate(layers, homogeneous=homogeneous) for moments in self.reached)

    @property
    def estimate(self) -> Estimate:
        """The present estimate; raises ``ValueError`` before the first boundary."""
        if not self.reached:
            raise ValueError("no samples to estimate from")
        return self.estimates[-1]

    def with_results(self, results: Sequence[ShardResult]) -> PointProgress:
        """The progress with a round's results merged in the order of their indices; those of other points are left out.

        A shard that was computed twice counts once. Raises ``ValueError`` unless this point's are the next shards, up
        to a boundary.
        """
        own = {result.index: result.moments for result in results if result.key == self.point.key}
        reached, moments = list(self.reached), self.moments
        first = at = self.schedule.first_shard(len(reached))
        while at < first + len(own) and len(reached) < len(self.schedule.boundaries):
            for index in range(at, at := at + len(self.schedule.shards(len(reached)))):
                if index not in own:
                    break
                moments = moments.merge(own[index])
            reached.append(moments)
        if sorted(own) != list(range(first, at)):
            raise ValueError(f"shards {sorted(own)} do not follow the first {first} up to a boundary")
        return replace(self, reached=tuple(reached))

    def end(self, asked: Asked) -> int | None:
        """Index of the boundary at which sampling ends, the first that fulfils ``asked``; None where it goes on."""
        last = self.schedule.boundaries[asked.last(self.schedule)]
        ends = (index for index, estimate in enumerate(self.estimates) if asked.ends(estimate, last))
        return next(ends, None)

    def ended(self, asked: Asked) -> PointProgress:
        """The progress as it was where sampling ends: what comes after is of no account."""
        end = self.end(asked)
        return self if end is None else replace(self, reached=self.reached[: end + 1])

    def record(self) -> dict[str, Any]:
        """What to store, as JSON: of each boundary the moments, and the extremes that the one before had not."""
        found, before = [], Counter[float]()
        for moments in self.reached:
            new = list((Counter(moments.extremes) - before).elements())
            found.append(moments.model_dump(mode="json") | {"extremes": new})
            before = Counter(moments.extremes)
        return {"reached": found}

    def resumed(self, record: dict[str, Any]) -> PointProgress:
        """The progress that ``record()`` described. Raises ``ValueError`` where it is none of this point's."""
        reached, extremes = [], ()
        for item in record["reached"]:
            extremes = merge_extremes(extremes, tuple(item["extremes"]))
            reached.append(Moments.model_validate({**item, "extremes": extremes}))
        counts = tuple(moments.count for moments in reached)
        if counts != self.schedule.boundaries[: len(counts)]:
            raise ValueError(f"stored at {counts} samples, not at the boundaries of the point")
        return replace(self, reached=tuple(reached))


def next_shards(progress: Sequence[PointProgress], asked: Asked, *, seed: int) -> list[ShardSpec]:
    """The next round for all points together; empty when every point is done. Points with one key share shards."""
    distinct = {state.point.key: state for state in progress}.values()
    return [
        ShardSpec(point=state.point, index=state.schedule.first_shard(boundary) + offset, samples=size, seed=seed)
        for state in distinct
        for boundary in range(len(state.reached), _target(state, asked))
        for offset, size in enumerate(state.schedule.shards(boundary))
    ]


def _target(state: PointProgress, asked: Asked) -> int:
    """How many boundaries the next round brings a point to."""
    done = len(state.reached)
    if state.end(asked) is not None:
        return done
    last = asked.last(state.schedule)
    if done == 0:
        return 1
    count = state.moments.count
    wanted = min(MARGIN * asked.needed(state.estimate), GROWTH * count)
    if math.isinf(wanted):
        wanted = GROWTH * count
    return min(last, max(done, bisect_left(state.schedule.boundaries, wanted))) + 1
