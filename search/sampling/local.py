"""Shards computed in this process: on every core that torch was given, one shard to a core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from collegium.search.kernel.closed_form import has_closed_form
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.sampling.estimation import Compute, Report
from collegium.search.sampling.shards import ShardResult, ShardSpec, shard_samples

#: Seconds between two reports, each of which may end the work.
BEAT = 0.2


def compute_here(device: str) -> Compute:
    """A ``Compute`` on ``device``; ``report`` is called from the calling thread, and may raise to end the work."""

    def compute(shards: list[ShardSpec], report: Report) -> list[ShardResult]:
        import torch  # a closed form does not need it

        threads = torch.get_num_threads() if device == "cpu" else 1
        return _in_turn(shards, device, report) if threads == 1 else _side_by_side(shards, threads, report)

    return compute


def _in_turn(shards: list[ShardSpec], device: str, report: Report) -> list[ShardResult]:
    from collegium.search.sampling.local import compute_shard

    results = []
    for index, shard in enumerate(shards):

        def part(fraction: float, message: str, index: int = index) -> None:
            report((index + fraction) / len(shards), "")

        results.append(compute_shard(shard, device=device, report=part))
    return results


class _Ended(Exception):
    """The caller wants no more of the work."""


def _side_by_side(shards: list[ShardSpec], threads: int, report: Report) -> list[ShardResult]:
    from collegium.search.sampling.local import compute_shard

    ended = threading.Event()
    fractions = [0.0] * len(shards)

    def one(index: int) -> ShardResult:
        def part(fraction: float, message: str) -> None:
            fractions[index] = fraction
            if ended.is_set():
                raise _Ended

        part(0.0, "")
        return compute_shard(shards[index], report=part)

    with _single_threads(threads) as pool:
        pending = futures = [pool.submit(one, index) for index in range(len(shards))]
        try:
            while pending:
                done, rest = wait(pending, timeout=BEAT, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                pending = list(rest)
                report(sum(fractions) / len(shards), "")
        finally:
            ended.set()
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]


@contextmanager
def _single_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads give torch one core each; the caller's own number is put back afterwards."""
    import torch

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


#: Draws of a shard, with a report after each: a CPU's core takes a second for a shard, a GPU a small part of that, and
#: is filled by all samples at once alone.
PARTS = {"cpu": 8, "cuda": 1}


class Sampler(Protocol):
    """Draws independent samples of one kernel entry."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` samples, shape ``(count,)``."""
        ...


def sampler_of(point: KernelPoint, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Sampler:
    """The fastest sampler for a point: its law where the chain is dense above its first layer, else all its weights."""
    if has_closed_form(point.chain, point.entry, point.pair):
        from collegium.search.sampling.dense import DenseSampler

        return DenseSampler(point.resolved, point.gram_matrix(), device=device, dtype=dtype)
    from collegium.search.sampling.conv import ConvSampler

    cosine = None if point.pair is None else point.pair.cosine
    return ConvSampler(point.resolved, point.entry, point.gram_matrix(), cosine, device=device, dtype=dtype)


def compute_shard(
    spec: ShardSpec, device: str = "cpu", report: Callable[[float, str], None] | None = None
) -> ShardResult:
    """The moments of a shard's samples, which follow from ``(seed, point.key, index, samples)`` and the kind of device.

    ``report(fraction, message)`` is called as it goes, and may raise to end the work.
    """
    generator = torch.Generator(device=device).manual_seed(spec.generator_seed)
    sampler = sampler_of(spec.point, device)
    part = max(1, shard_samples(spec.point) // PARTS.get(generator.device.type, 1))
    moments, done = Moments(), 0
    while done < spec.samples:
        count = min(part, spec.samples - done)
        moments = moments.merge(Moments.of(sampler.draw(count, generator).double().cpu().numpy()))
        done += count
        if report is not None:
            report(done / spec.samples, f"{done:,} of {spec.samples:,} samples")
    return ShardResult(key=spec.point.key, index=spec.index, moments=moments)
