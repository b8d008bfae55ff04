"""Shards computed in this process: on every core that torch may use, one shard to a core.

Torch is imported when there are shards to compute: a closed form needs none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager

from collegium.search.progress import Report, scaled
from collegium.search.sampling.estimation import Compute
from collegium.search.sampling.shards import ShardResult, ShardSpec

#: Seconds between two reports, each of which may end the work.
BEAT = 0.2


def compute_here(device: str) -> Compute:
    """A ``Compute`` on ``device``; ``report`` is called from the calling thread, and may raise to end the work."""

    def compute(shards: list[ShardSpec], report: Report) -> list[ShardResult]:
        import torch

        threads = torch.get_num_threads() if device == "cpu" else 1
        return _in_turn(shards, device, report) if threads == 1 else _side_by_side(shards, threads, report)

    return compute


def _in_turn(shards: list[ShardSpec], device: str, report: Report) -> list[ShardResult]:
    from collegium.search.sampling.sampler import compute_shard

    def fraction_only(fraction: float, message: str) -> None:
        report(fraction, "")

    return [
        compute_shard(shard, device, scaled(fraction_only, index / len(shards), (index + 1) / len(shards)))
        for index, shard in enumerate(shards)
    ]


class _Ended(Exception):
    """The calling thread has stopped the work."""


def _side_by_side(shards: list[ShardSpec], threads: int, report: Report) -> list[ShardResult]:
    from collegium.search.sampling.sampler import compute_shard

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
    """A pool whose threads use one core each; the caller's number of threads is restored afterwards."""
    import torch

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
