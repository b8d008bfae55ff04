"""The sampler of a kernel entry, and the moments of one shard's samples."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from collegium.search.kernel.closed_form import is_gated
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.progress import Report, discard
from collegium.search.sampling.schedule import shard_samples
from collegium.search.sampling.shards import ShardResult, ShardSpec

#: Draws of a shard, with a report after each: a CPU's core takes a second for a shard, a GPU a small part of that, and
#: is filled by all samples at once alone.
PARTS = {"cpu": 8, "cuda": 1}


class Sampler(Protocol):
    """Draws independent samples of one kernel entry."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` samples, shape ``(count,)``."""
        ...


def build_sampler(point: KernelPoint, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Sampler:
    """The fastest sampler for a point: by counts of open units where that is its law, else layer by layer."""
    grouped = point.gram is not None and point.gram.grouped
    if is_gated(point.chain, point.entry, point.pair) and not grouped:
        from collegium.search.sampling.dense import DenseSampler

        return DenseSampler(point.resolved, point.gram_matrix(), device=device, dtype=dtype)
    from collegium.search.sampling.conv import ConvSampler

    cosine = None if point.pair is None else point.pair.cosine
    return ConvSampler(point.resolved, point.entry, point.gram_matrix(), cosine, device=device, dtype=dtype)


def compute_shard(spec: ShardSpec, device: str = "cpu", report: Report = discard) -> ShardResult:
    """The moments of a shard's samples, which follow from ``(seed, point.key, index, samples)`` and the kind of device.

    ``report(fraction, message)`` is called as it goes, and may raise to end the work.
    """
    generator = torch.Generator(device=device).manual_seed(spec.generator_seed)
    sampler = build_sampler(spec.point, device)
    part = max(1, shard_samples(spec.point) // PARTS.get(generator.device.type, 1))
    moments, done = Moments(), 0
    while done < spec.samples:
        count = min(part, spec.samples - done)
        moments = moments.merge(Moments.of(sampler.draw(count, generator).double().cpu().numpy()))
        done += count
        report(done / spec.samples, f"{done:,} of {spec.samples:,} samples")
    return ShardResult(key=spec.point.key, index=spec.index, moments=moments)
