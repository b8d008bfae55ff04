"""Rounds of shards: their sizes, when they end, and that nothing but the seed decides their numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.kernel.inputs import KernelInputs
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.sampling.shards import (
    GROWTH,
    PILOT_SAMPLES,
    PointProgress,
    ShardResult,
    ShardSpec,
    most_samples,
    next_shards,
    shard_samples,
    work_per_sample,
)
from collegium.search.spec import PairSpec


@pytest.fixture
def point(mlp) -> KernelPoint:
    return KernelPoint.of(mlp(2), (8, 8), "unit", KernelInputs())


def lognormal(spec: ShardSpec, spread: float = 0.8) -> ShardResult:
    """A shard of log-normal samples, ln r = spread²."""
    values = np.exp(spread * np.random.default_rng(spec.generator_seed).standard_normal(spec.samples))
    return ShardResult(key=spec.point.key, index=spec.index, moments=Moments.of(values))


def converge(state: PointProgress, relative_error: float, shuffle: bool = False) -> tuple[PointProgress, list[int]]:
    rounds = []
    while shards := next_shards([state], relative_error=relative_error, seed=3):
        rounds.append(sum(shard.samples for shard in shards))
        results = [lognormal(shard) for shard in shards]
        state = state.with_results(results[::-1] if shuffle else results)
    return state, rounds


def test_pilot_then_what_is_needed_then_a_check(point):
    state, rounds = converge(PointProgress(point), 0.02)
    assert rounds[0] == PILOT_SAMPLES
    assert len(rounds) <= 4
    assert state.estimate.converged(0.02)
    assert state.estimate.log_ratio == pytest.approx(0.64, rel=0.06)


def test_a_pilot_may_be_enough(point):
    _, rounds = converge(PointProgress(point), 0.5)
    assert rounds == [PILOT_SAMPLES]


def test_no_round_grows_too_far(point):
    state = PointProgress(point).with_results([lognormal(s) for s in _round(point)])
    asked = sum(shard.samples for shard in next_shards([state], relative_error=1e-4, seed=0))
    assert asked == (GROWTH - 1) * PILOT_SAMPLES


def _round(point: KernelPoint) -> list[ShardSpec]:
    return next_shards([PointProgress(point)], relative_error=0.01, seed=0)


def test_shards_of_a_round_are_equal(point):
    state = PointProgress(point, Moments.of(np.exp(np.random.default_rng(0).standard_normal(1 << 19))), 5)
    shards = next_shards([state], relative_error=1e-3, seed=0)
    sizes = [shard.samples for shard in shards]
    assert len(sizes) > 1
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= shard_samples(point)
    assert [shard.index for shard in shards] == list(range(5, 5 + len(sizes)))


@given(samples=st.integers(100, 5_000_000), done=st.integers(0, 3))
def test_a_fixed_number_of_samples_is_met_exactly(mlp, samples, done):
    point = KernelPoint.of(mlp(1), (8,), "unit", KernelInputs())
    state = PointProgress(point, Moments.of(np.arange(1.0, done + 1)), done)
    shards = next_shards([state], relative_error=0.01, samples=samples, seed=0)
    assert sum(shard.samples for shard in shards) + done == samples


def test_a_point_that_does_not_converge_is_given_up(point):
    moments = Moments.of(np.exp(2 * np.random.default_rng(0).standard_normal(1000)))
    state = PointProgress(point, moments.model_copy(update={"count": most_samples(point)}), 9)
    assert not state.estimate.converged(0.01)
    assert next_shards([state], relative_error=0.01, seed=0) == []


def test_several_points_go_together(mlp, point):
    other = KernelPoint.of(mlp(2), (9, 9), "unit", KernelInputs())
    shards = next_shards([PointProgress(point), PointProgress(other), PointProgress(point)], relative_error=0.1, seed=0)
    assert [shard.point for shard in shards] == [point, other]
    states = [PointProgress(p).with_results([lognormal(shard) for shard in shards]) for p in (point, other, point)]
    assert [state.moments.count for state in states] == [PILOT_SAMPLES] * 3
    assert states[0] == states[2]


def test_the_order_in_which_results_come_does_not_matter(point):
    assert converge(PointProgress(point), 0.02) == converge(PointProgress(point), 0.02, shuffle=True)


def test_results_must_follow_each_other(point):
    spec = _round(point)[0]
    state = PointProgress(point).with_results([lognormal(spec), lognormal(spec)])
    assert state.shards == 1  # computed twice, counted once
    with pytest.raises(ValueError, match="do not follow"):
        state.with_results([lognormal(spec)])


def test_progress_is_taken_up_where_it_was_left(point):
    state, _ = converge(PointProgress(point), 0.05)
    record = json.loads(json.dumps(state.record()))
    assert PointProgress.resumed(point, record) == state
    shards = next_shards([PointProgress.resumed(point, record)], relative_error=0.02, seed=3)
    assert shards[0].index == state.shards


def test_seeds_differ_by_seed_point_and_index_alone(mlp, point):
    other = KernelPoint.of(mlp(2), (9, 9), "unit", KernelInputs())
    specs = [
        ShardSpec(point=p, index=i, samples=n, seed=s)
        for p in (point, other)
        for i in (0, 1)
        for s in (0, 1)
        for n in (5, 6)
    ]
    assert len({spec.generator_seed for spec in specs}) == 8
    assert all(0 <= spec.generator_seed < 1 << 63 for spec in specs)


def test_specs_and_results_survive_json(point):
    spec = ShardSpec(point=point, index=3, samples=100, seed=7)
    assert ShardSpec.model_validate(json.loads(spec.model_dump_json())) == spec
    result = lognormal(spec)
    assert ShardResult.model_validate(json.loads(result.model_dump_json())) == result


def test_costs_grow_with_the_work(mlp, bottleneck, double):
    def cost(chain, widths, entry="unit", inputs=None):
        return work_per_sample(KernelPoint.of(chain, widths, entry, inputs or KernelInputs()))

    assert cost(mlp(2), (8, 8)) == cost(mlp(2), (800, 800))  # the law's cost does not depend on the width
    assert cost(bottleneck, (8,)) < cost(bottleneck, (64,)) < cost(bottleneck, (64,), "pooled")
    assert cost(bottleneck, (64,)) < cost(double, (64,)) < cost(double, (128,))
    pair = KernelInputs(pair=PairSpec(cosine=0.5))
    assert cost(double, (64,)) < cost(double, (64,), inputs=pair)
