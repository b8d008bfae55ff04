"""Rounds of shards until each point has converged, with what is stored taken up where it was left."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.kernel.moments import Moments
from collegium.search.optimize.problem import build_problem
from collegium.search.progress import discard
from collegium.search.sampling.estimation import Estimation, relaxed
from collegium.search.sampling.shards import ShardResult, ShardSpec
from collegium.search.spec import PresetBaseline, SearchSpec


class Lognormal:
    """A small real ``Compute``: kernels whose ln r is 1 / width, and a count of what was asked."""

    def __init__(self):
        self.rounds: list[list[ShardSpec]] = []

    @property
    def samples(self):
        return sum(shard.samples for shards in self.rounds for shard in shards)

    def __call__(self, shards, report):
        self.rounds.append(shards)
        report(0.5, "half")
        return [self._one(shard) for shard in shards]

    def _one(self, shard):
        noise = np.random.default_rng(shard.generator_seed).standard_normal(shard.samples)
        kernel = np.exp(np.sqrt(1 / shard.point.widths[0]) * noise)
        return ShardResult(key=shard.point.key, index=shard.index, moments=Moments.of(kernel))


@pytest.fixture(scope="module")
def points():
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset="resnet50")))
    return [problem.point((n, n)) for n in (8, 16, 32)]


def test_every_point_reaches_the_asked_error(points):
    compute = Lognormal()
    states = Estimation(0.01, 0, compute).run(points, discard, "sampling")
    for state in states:
        estimate = state.estimate
        assert estimate.standard_error <= 0.01 * estimate.log_ratio
        assert abs(estimate.log_ratio - 1 / state.point.widths[0]) < 5 * estimate.standard_error
    assert len(compute.rounds) >= 2


def test_a_fixed_number_of_samples(points):
    compute = Lognormal()
    estimation = Estimation(0.01, 0, compute, samples=1500)
    states = estimation.run(points, discard, "sampling")
    assert [state.moments.count for state in states] == [1500] * 3
    assert all(estimation.converged(state) for state in states)


def test_stored_estimates_are_taken_up_and_every_round_is_stored(points):
    stored: dict[str, dict] = {}
    first, second = Lognormal(), Lognormal()
    keep = {"load": stored.get, "store": stored.__setitem__}
    estimation = Estimation(0.1, 0, first, **keep)
    before = estimation.run(points, discard, "sampling")
    assert estimation.reused == 0
    stored.update(json.loads(json.dumps(stored)))
    again = Estimation(0.1, 0, second, **keep)
    assert again.run(points, discard, "sampling") == before
    assert again.reused == sum(state.moments.count for state in before)
    assert second.rounds == []
    # a smaller error goes on from there, and ends where it ends without
    better = Estimation(0.01, 0, second, **keep).run(points, discard, "sampling")
    assert second.rounds
    assert first.samples + second.samples >= sum(state.moments.count for state in better)
    assert better == Estimation(0.01, 0, Lognormal()).run(points, discard, "sampling")


@given(
    before=st.lists(st.tuples(st.sampled_from([0.3, 0.02, 0.01]), st.sampled_from([None, 200, 30_000])), max_size=3),
    seed=st.integers(0, 1),
    samples=st.sampled_from([None, 200, 2_000]),
)
@settings(max_examples=30)
def test_what_is_stored_never_changes_an_estimate(points, before, seed, samples):
    stored: dict[str, dict] = {}
    keep = {"load": stored.get, "store": stored.__setitem__}
    for earlier, (error, count) in enumerate(before):
        Estimation(error, earlier % 2, Lognormal(), samples=count, **keep).run(points, discard, "sampling")
    fresh = Estimation(0.03, seed, Lognormal(), samples=samples).run(points, discard, "sampling")
    assert Estimation(0.03, seed, Lognormal(), samples=samples, **keep).run(points, discard, "sampling") == fresh


def test_seeds_devices_and_fixed_numbers_of_samples_are_stored_apart(points):
    estimation = Estimation(0.1, 0, Lognormal())
    others = [{"seed": 1}, {"device": "cuda"}, {"samples": 100}, {"samples": 200}]
    keys = {replace(estimation, **other).storage_key(points[0]) for other in [{}, *others]}
    assert len(keys) == 5
    assert replace(estimation, relative_error=0.01).storage_key(points[0]) in keys


def test_an_interrupted_estimation_goes_on_to_the_same_end(points):
    class Interrupted(Lognormal):
        def __call__(self, shards, report):
            if self.rounds:
                raise KeyboardInterrupt
            return super().__call__(shards, report)

    stored: dict[str, dict] = {}
    keep = {"load": stored.get, "store": stored.__setitem__}
    with pytest.raises(KeyboardInterrupt):
        Estimation(0.01, 0, Interrupted(), **keep).run(points, discard, "sampling")
    resumed = Estimation(0.01, 0, Lognormal(), **keep)
    assert resumed.run(points, discard, "sampling") == Estimation(0.01, 0, Lognormal()).run(points, discard, "sampling")
    assert 0 < resumed.reused < sum(state.moments.count for state in resumed.known.progress.values())


def test_a_point_is_drawn_once_in_a_search(points):
    compute = Lognormal()
    estimation = Estimation(0.02, 0, compute)
    first = estimation.run(points, discard, "sampling")
    rounds = len(compute.rounds)
    assert relaxed(estimation, 2).run(points, discard, "again")[0].moments.count <= first[0].moments.count
    assert len(compute.rounds) == rounds
    assert estimation.reused == 0


def test_a_fixed_number_of_samples_that_says_nothing_has_not_converged(points):
    class Heavy(Lognormal):
        def _one(self, shard):
            noise = np.random.default_rng(shard.generator_seed).standard_normal(shard.samples)
            return ShardResult(key=shard.point.key, index=shard.index, moments=Moments.of(np.exp(6 * noise)))

    estimation = Estimation(0.01, 0, Heavy(), samples=100)
    assert not any(estimation.converged(state) for state in estimation.run(points, discard, "sampling"))


RECORDS = [
    {},
    {"moments": 3, "shards": 1},
    {"reached": [{"unknown": 1, "extremes": []}]},
    {"reached": [{"count": 3, "extremes": []}]},
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_another_version_is_sampled_afresh(points, record):
    compute = Lognormal()
    states = Estimation(0.1, 0, compute, samples=200, load=lambda key: record).run(points, discard, "sampling")
    assert [state.moments.count for state in states] == [200] * 3


def test_progress_never_falls(points):
    seen = []
    Estimation(0.02, 0, Lognormal()).run(points, lambda fraction, message: seen.append(fraction), "sampling")
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert 0 <= seen[0] < 0.1


def test_a_relaxed_error_needs_fewer_samples():
    estimation = Estimation(0.01, 0, Lognormal(), samples=9000)
    softer = relaxed(estimation, 3)
    assert softer.relative_error == pytest.approx(0.03)
    assert softer.samples == 1000
    assert relaxed(Estimation(0.4, 0, Lognormal()), 3).relative_error == 0.5
