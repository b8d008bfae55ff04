"""Chains that several tests of the search study, and a deterministic bench."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from collegium.search.latency.workload import Workload
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.segment import Segment


@pytest.fixture(scope="session")
def mlp() -> Callable[[int], Chain]:
    """``mlp(depth)``: 784 inputs, ``depth`` hidden rectified layers of free width, one output."""

    def build(depth: int) -> Chain:
        hidden = tuple(WeightLayer("dense", Free(index)) for index in range(depth))
        return Chain(784, 1, 1, (*hidden, WeightLayer("dense", 1, "linear")), tuple(f"n{i}" for i in range(depth)))

    return build


@pytest.fixture(scope="session")
def bottleneck() -> Chain:
    """1×1 → 3×3 → 1×1, 256 channels in and out, one tied width."""
    layers = (
        WeightLayer("conv", Free(0)),
        WeightLayer("conv", Free(0), kernel=3, padding=1),
        WeightLayer("conv", 256, "linear"),
    )
    return Chain(256, 8, 8, layers, ("n",))


@pytest.fixture(scope="session")
def basic() -> Chain:
    """3×3 → 3×3, 64 channels in and out."""
    layers = (WeightLayer("conv", Free(0), kernel=3, padding=1), WeightLayer("conv", 64, "linear", 3, padding=1))
    return Chain(64, 8, 8, layers, ("n",))


@pytest.fixture(scope="session")
def double() -> Chain:
    """1×1 → 3×3 → 3×3 → 1×1: two layers share their weights, so there is no closed form."""
    layers = (
        WeightLayer("conv", Free(0)),
        WeightLayer("conv", Free(0), kernel=3, padding=1),
        WeightLayer("conv", Free(0), kernel=3, padding=1),
        WeightLayer("conv", 16, "linear"),
    )
    return Chain(16, 8, 8, layers, ("n",))


class CountingBench:
    """A bench on which a segment takes a nanosecond for each parameter and sample, and each visit a further share.

    ``visits`` lists the segments in the order in which they were timed; ``noise`` are shares of the time, by round.
    """

    threaded = True
    room = 2**30

    def __init__(self, machine: str = "a machine", noise: tuple[float, ...] = (0.0,)) -> None:
        self.machine = machine
        self.noise = noise
        self.visits: list[Segment] = []
        self.built: list[Segment] = []
        self.entered = 0

    def threads(self, workload: Workload) -> int:
        return workload.threads or 2

    @contextmanager
    def settings(self, workload: Workload) -> Iterator[None]:
        self.entered += 1
        yield

    def prepare(self, segment: Segment, workload: Workload):
        self.built.append(segment)
        seen = 0

        def timer(calls: int) -> float:
            nonlocal seen
            self.visits.append(segment)
            share = self.noise[seen % len(self.noise)]
            seen += 1
            return self.seconds(segment, workload) * (1 + share)

        return timer

    @staticmethod
    def seconds(segment: Segment, workload: Workload) -> float:
        return 1e-9 * segment.parameters * workload.batch_size * (3 if workload.training else 1)


@pytest.fixture
def bench() -> CountingBench:
    return CountingBench()


@pytest.fixture(scope="session")
def make_bench() -> type[CountingBench]:
    return CountingBench
