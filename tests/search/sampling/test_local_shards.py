"""Shards on one core and on two: the same numbers, and an end when the caller wants one."""

from __future__ import annotations

import time

import pytest
import torch

from collegium.search.optimize.problem import build_problem
from collegium.search.sampling.local import compute_here
from collegium.search.sampling.shards import ShardSpec
from collegium.search.spec import PresetBaseline, SearchSpec


@pytest.fixture
def shards():
    point = build_problem(SearchSpec(baseline=PresetBaseline(preset="resnet50"))).point((12, 12))
    return [ShardSpec(point=point, index=index, samples=3000, seed=1) for index in range(5)]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_core_and_two_agree_to_the_bit(shards, two_threads):
    seen: list[float] = []
    together = compute_here("cpu")(shards, lambda fraction, message: seen.append(fraction))
    assert torch.get_num_threads() == 2
    assert seen == sorted(seen)
    assert seen[-1] == 1
    torch.set_num_threads(1)
    alone = compute_here("cpu")(shards, lambda fraction, message: None)
    assert together == alone
    assert [result.index for result in together] == [0, 1, 2, 3, 4]


def test_a_report_that_raises_ends_the_threads(shards, two_threads):
    class Cancelled(Exception):
        pass

    def cancel(fraction, message):
        raise Cancelled

    long = [shard.model_copy(update={"samples": 5_000_000}) for shard in shards]
    started = time.monotonic()
    with pytest.raises(Cancelled):
        compute_here("cpu")(long, cancel)
    assert time.monotonic() - started < 30
    assert torch.get_num_threads() == 2


def test_an_error_in_a_shard_is_raised(shards, two_threads):
    def broken(shard):
        return shard.model_copy(update={"point": shard.point.model_copy(update={"widths": (0, 0)})})

    with pytest.raises((ValueError, ZeroDivisionError, RuntimeError)):
        compute_here("cpu")([broken(shard) for shard in shards], lambda fraction, message: None)
