"""When a point's estimate is judged: after numbers of samples that do not depend on the error that is asked for.

An estimate is judged at the boundaries of its schedule alone, and it ends at the first one at which it has converged.
So the answer to a specification and a seed is the same whether its samples are drawn at once, in parts, on many
machines, or were drawn before for a smaller or a larger error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from collegium.search.kernel.closed_form import is_dense_above, is_gated
from collegium.search.kernel.point import KernelPoint
from collegium.search.kernel.receptive_field import layer_windows
from collegium.search.networks.chain import Chain

#: Samples of a point's first boundary, and the work beyond which it has fewer: about eight seconds of one core.
PILOT_SAMPLES, PILOT_WORK = 8_192, 8e10
#: Samples that it has in any case. A point of such work is a wide one, whose tail is light.
FEWEST_PILOT_SAMPLES = 1_024
#: Factor from one boundary to the next: a fifth more samples than needed on average, and stored estimates of few parts.
STEP = 2**0.5
#: Most samples of one point, before its cost is considered.
MOST_SAMPLES = 1 << 26
#: Most work that one point may cost, in units of ``work_per_sample``: about two minutes of one core.
MOST_WORK = 1.2e12
#: Multiply–accumulates in the time of one normal number: 3.6 ns, at 25–75 GMAC/s, on one AVX-512 core.
NORMAL_COST = 150.0
#: Work of a multiply–accumulate, and of a number of the patches that a layer reads.
PRODUCT_WORK, PATCH_WORK = 0.25, 10.0
#: Most work of one shard: about a second of one core.
SHARD_WORK = 1e10


@dataclass(frozen=True)
class Schedule:
    """The samples of one point in shards of at most ``largest``, and the ``boundaries`` at which they are judged."""

    boundaries: tuple[int, ...]
    largest: int

    @classmethod
    def of(cls, point: KernelPoint, samples: int | None = None) -> Self:
        """Boundaries a factor √2 apart up to ``most_samples``, or the only one at ``samples``."""
        if samples is not None:
            return cls((samples,), shard_samples(point))
        most, pilot = most_samples(point), pilot_samples(point)
        found = [pilot]
        while found[-1] < most:
            found.append(min(most, round(pilot * STEP ** len(found))))
        return cls(tuple(found), shard_samples(point))

    def shards(self, boundary: int) -> list[int]:
        """Sizes of the shards between the boundary before and this one; they differ by one at most."""
        before = self.boundaries[boundary - 1] if boundary else 0
        samples = self.boundaries[boundary] - before
        count = -(-samples // self.largest)
        return [samples // count + (index < samples % count) for index in range(count)]

    def first_shard(self, boundary: int) -> int:
        """Index of the first of these shards among all of the point's."""
        return sum(len(self.shards(earlier)) for earlier in range(boundary))


def pilot_samples(point: KernelPoint) -> int:
    """The samples of a point's first boundary."""
    return max(FEWEST_PILOT_SAMPLES, min(PILOT_SAMPLES, int(PILOT_WORK / work_per_sample(point))))


def most_samples(point: KernelPoint) -> int:
    """The samples after which a point that has not converged is given up."""
    return max(PILOT_SAMPLES, min(MOST_SAMPLES, int(MOST_WORK / work_per_sample(point))))


def shard_samples(point: KernelPoint) -> int:
    """Most samples of one shard, a power of two: about a second's work, whatever the point."""
    return 1 << max(8, min(20, int(math.log2(SHARD_WORK / work_per_sample(point)))))


def work_per_sample(point: KernelPoint) -> float:
    """Rough cost of one sample in tenths of a nanosecond of one core, measured with the samplers of ``sampling``."""
    chain = point.resolved
    computed = [each.computed.positions for each in layer_windows(chain, point.entry)]
    if is_gated(chain, point.entry, point.pair):
        positions = computed[0]
        return 1_700.0 * len(chain.layers) + (130.0 * _units(chain, 0) * positions if positions > 1 else 0.0)
    if is_dense_above(chain, point.entry, point.pair):
        numbers = sum(_units(chain, index) * positions for index, positions in enumerate(computed))
        return 3_000.0 * len(chain.layers) + 400.0 * numbers
    inputs = 1 if point.pair is None else 2
    work = 20_000.0 * len(chain.layers)
    products = 2 * (inputs * computed[0]) ** 2 * _units(chain, 0)
    for index, (fan_in, layer) in list(enumerate(zip(chain.fan_ins(()), chain.layers, strict=True)))[1:]:
        rows, out = inputs * computed[index], -(-_units(chain, index) // layer.groups)
        products += layer.groups * min(weights_cost(rows, fan_in, out), law_cost(rows, fan_in, out))
        work += PATCH_WORK * rows * fan_in * layer.groups
    return work + PRODUCT_WORK * products


def weights_cost(rows: int, fan_in: int, out: int) -> float:
    """Multiply–accumulates that drawing a layer's weights costs, with what is computed of them, over its ``rows``."""
    return (NORMAL_COST + 3 * rows) * fan_in * out


def law_cost(rows: int, fan_in: int, out: int) -> float:
    """Multiply–accumulates that drawing the law of what a layer's weights do costs, over its ``rows``."""
    return NORMAL_COST * rows * (fan_in + out) + rows * rows * (4 * fan_in + 4 * out + 10 * rows)


def _units(chain: Chain, index: int) -> int:
    """Units of a layer at one position that are needed: one of the last layer's."""
    out = chain.layers[index].out
    assert isinstance(out, int)
    return 1 if index == len(chain.layers) - 1 else out
