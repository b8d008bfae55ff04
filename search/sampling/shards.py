"""Rounds of Monte Carlo: a pilot, then as many equal shards as the asked error needs, then a check.

A plan depends on the merged moments alone, and a shard's numbers on ``(seed, point.key, index)`` alone, so a result is
the same wherever the shards are computed, in any order and any number at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from collegium.search.kernel.closed_form import has_closed_form
from collegium.search.kernel.moments import Estimate, Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.kernel.receptive_field import windows
from collegium.search.networks.chain import Chain

#: Samples of a point's first round.
PILOT_SAMPLES = 8_192
#: Most samples of one point, before its cost is considered.
MOST_SAMPLES = 1 << 26
#: Most work that one point may cost, in units of ``work_per_sample``: about ten minutes of one core.
MOST_WORK = 6e12
#: Work per product by the kind of layer: a dense layer's weights are drawn, of a convolution its outputs are.
DRAWING = {"dense": 8.0, "conv": 2.5}
#: Most work of one shard: about a second of one core.
SHARD_WORK = 1e10
#: No round takes a point's samples further than this factor: a pilot's error is itself uncertain.
GROWTH = 16
#: Samples beyond those that the present error predicts, so that the check after a round mostly passes.
MARGIN = 1.1


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
class PointProgress:
    """What is known of one point: the merged moments of its first ``shards`` shards."""

    point: KernelPoint
    moments: Moments = field(default_factory=Moments)
    shards: int = 0

    def with_results(self, results: Sequence[ShardResult]) -> PointProgress:
        """The progress with a round's results merged in the order of their indices; those of other points are left out.

        A shard that was computed twice counts once. Raises ``ValueError`` unless this point's are the next shards.
        """
        own = {result.index: result.moments for result in results if result.key == self.point.key}
        if sorted(own) != list(range(self.shards, self.shards + len(own))):
            raise ValueError(f"shards {sorted(own)} do not follow the first {self.shards}")
        moments = self.moments
        for index in sorted(own):
            moments = moments.merge(own[index])
        return PointProgress(self.point, moments, self.shards + len(own))

    def record(self) -> dict[str, Any]:
        """What to store under ``point.key``, as JSON."""
        return {"moments": self.moments.model_dump(mode="json"), "shards": self.shards}

    @classmethod
    def resumed(cls, point: KernelPoint, record: dict[str, Any]) -> PointProgress:
        """The progress that ``record()`` described."""
        return cls(point, Moments.model_validate(record["moments"]), int(record["shards"]))

    @property
    def estimate(self) -> Estimate:
        """The present estimate; raises ``ValueError`` before the pilot."""
        return self.moments.estimate()


def next_shards(
    progress: Sequence[PointProgress], *, relative_error: float, seed: int, samples: int | None = None
) -> list[ShardSpec]:
    """The next round for all points together; empty when every point is done.

    A point is done when the relative standard error of its ln r is at most ``relative_error``, or, not converged, when
    it has had ``most_samples``; with ``samples``, when it has had that many. Points with the same key share shards.
    """
    distinct = {state.point.key: state for state in progress}.values()
    return [
        ShardSpec(point=state.point, index=state.shards + offset, samples=size, seed=seed)
        for state in distinct
        for offset, size in enumerate(_sizes(state, relative_error, samples))
    ]


def most_samples(point: KernelPoint) -> int:
    """The samples after which a point that has not converged is given up."""
    return max(PILOT_SAMPLES, min(MOST_SAMPLES, int(MOST_WORK / work_per_sample(point))))


def shard_samples(point: KernelPoint) -> int:
    """Most samples of one shard, a power of two: about a second's work, whatever the point."""
    return 1 << max(8, min(20, int(math.log2(SHARD_WORK / work_per_sample(point)))))


def work_per_sample(point: KernelPoint) -> float:
    """Rough cost of one sample in tenths of a nanosecond of one core, measured with the samplers of ``sampling``."""
    chain = point.resolved
    maps = windows(chain, point.entry)
    if has_closed_form(chain, point.entry, point.pair):
        positions = maps[1].positions
        return 1_700.0 * len(chain.layers) + (130.0 * _units(chain, 0) * positions if positions > 1 else 0.0)
    products = sum(
        DRAWING[chain.layers[index].kind] * _units(chain, index) * fan_in * after.positions
        for index, (fan_in, after) in enumerate(zip(chain.fan_ins(()), maps[1:], strict=True))
    )
    return 20_000.0 * len(chain.layers) + products * (1.0 if point.pair is None else 1.5)


def _units(chain: Chain, index: int) -> int:
    """Units of a layer at one position that are needed: one of the last layer's."""
    out = chain.layers[index].out
    assert isinstance(out, int)
    return 1 if index == len(chain.layers) - 1 else out


def _sizes(state: PointProgress, relative_error: float, samples: int | None) -> list[int]:
    """Sizes of one point's next shards."""
    done = state.moments.count
    if samples is not None:
        return _split(samples - done, shard_samples(state.point))
    if done == 0:
        return _split(PILOT_SAMPLES, shard_samples(state.point))
    estimate, most = state.estimate, most_samples(state.point)
    if estimate.converged(relative_error) or done >= most:
        return []
    wanted = MARGIN * done * (estimate.relative_error / relative_error) ** 2
    target = min(max(wanted, 1.25 * done), GROWTH * done, most)
    return _split(math.ceil(target) - done, shard_samples(state.point))


def _split(samples: int, most: int) -> list[int]:
    """``samples`` in equal shards of at most ``most``; the first are one larger where they do not come out even."""
    if samples <= 0:
        return []
    shards = -(-samples // most)
    return [samples // shards + (index < samples % shards) for index in range(shards)]
