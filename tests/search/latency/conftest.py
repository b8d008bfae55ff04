"""A deterministic bench and networks for measurements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from collegium.search.latency.workload import Workload
from collegium.search.networks.build import build_network
from collegium.search.networks.network import Network
from collegium.search.networks.segment import Segment
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec


class CountingBench:
    """A bench on which a segment takes a nanosecond for each parameter and sample, and each visit a further share.

    ``visits`` lists the segments in the order in which they were timed; ``noise`` are shares of the time, by round.
    """

    threaded = True

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


def network_of(baseline) -> Network:
    return build_network(parse_spec(SearchSpec, {"baseline": baseline}).baseline)


@pytest.fixture(scope="session")
def network():
    """``network(baseline)``: the network of a baseline as it is posted."""
    return network_of
