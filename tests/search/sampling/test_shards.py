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
from collegium.search.sampling.schedule import (
    FEWEST_PILOT_SAMPLES,
    PILOT_SAMPLES,
    Schedule,
    most_samples,
    shard_samples,
    work_per_sample,
)
from collegium.search.sampling.shards import GROWTH, Asked, PointProgress, ShardResult, ShardSpec, next_shards
from collegium.search.spec import PairSpec


@pytest.fixture
def point(mlp) -> KernelPoint:
    return KernelPoint.of(mlp(2), (8, 8), "unit", KernelInputs())


def lognormal(spec: ShardSpec, spread: float = 0.8) -> ShardResult:
    """A shard of log-normal samples, ln r = spread²."""
    values = np.exp(spread * np.random.default_rng(spec.generator_seed).standard_normal(spec.samples))
    return ShardResult(key=spec.point.key, index=spec.index, moments=Moments.of(values))


def converge(state: PointProgress, asked: Asked, shuffle: bool = False) -> tuple[PointProgress, list[int]]:
    rounds = []
    while shards := next_shards([state], asked, seed=3):
        rounds.append(sum(shard.samples for shard in shards))
        results = [lognormal(shard) for shard in shards]
        state = state.with_results(results[::-1] if shuffle else results)
    return state.ended(asked), rounds


def test_pilot_then_what_is_needed_then_a_check(point):
    state, rounds = converge(PointProgress(point), Asked(0.02))
    assert rounds[0] == PILOT_SAMPLES
    assert len(rounds) <= 4
    assert state.estimate.converged(0.02)
    assert state.estimate.log_ratio == pytest.approx(0.64, rel=0.06)


def test_a_pilot_may_be_enough(point):
    _, rounds = converge(PointProgress(point), Asked(0.5))
    assert rounds == [PILOT_SAMPLES]


def test_no_round_grows_too_far(point):
    state = PointProgress(point).with_results([lognormal(s) for s in _round(point)])
    asked = sum(shard.samples for shard in next_shards([state], Asked(1e-4), seed=0))
    assert asked == (GROWTH - 1) * PILOT_SAMPLES


def _round(point: KernelPoint) -> list[ShardSpec]:
    return next_shards([PointProgress(point)], Asked(0.01), seed=0)


@given(samples=st.integers(100, 5_000_000))
def test_a_fixed_number_of_samples_is_met_exactly(mlp, samples):
    point = KernelPoint.of(mlp(1), (8,), "unit", KernelInputs())
    shards = next_shards([PointProgress(point, samples)], Asked(0.01, samples), seed=0)
    sizes = [shard.samples for shard in shards]
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= shard_samples(point)
    assert [shard.index for shard in shards] == list(range(len(sizes)))


def test_boundaries_are_the_same_whatever_error_is_asked_for(point, double):
    for one in (point, KernelPoint.of(double, (64,), "unit", KernelInputs())):
        schedule = Schedule.of(one)
        assert schedule.boundaries[0] == PILOT_SAMPLES
        assert schedule.boundaries[-1] == most_samples(one)
        steps = np.diff(np.log(schedule.boundaries))
        assert ((steps > 0) & (steps < 0.35)).all()
        sizes = [schedule.shards(boundary) for boundary in range(len(schedule.boundaries))]
        assert np.cumsum([sum(each) for each in sizes]).tolist() == list(schedule.boundaries)
        assert max(map(max, sizes)) <= shard_samples(one)
        assert schedule.first_shard(3) == sum(map(len, sizes[:3]))


def test_a_member_whose_samples_are_costly_has_fewer_at_first(double):
    sizes = [
        Schedule.of(KernelPoint.of(double, (width,), "unit", KernelInputs())).boundaries[0] for width in (64, 40_000)
    ]
    assert sizes == [PILOT_SAMPLES, FEWEST_PILOT_SAMPLES]


@given(errors=st.lists(st.sampled_from([0.5, 0.1, 0.05, 0.03, 0.02]), min_size=1, max_size=4), last=st.booleans())
def test_an_estimate_does_not_depend_on_what_was_asked_before(mlp, errors, last):
    point = KernelPoint.of(mlp(2), (8, 8), "unit", KernelInputs())
    state = PointProgress(point)
    for error in errors:
        longer = state
        while shards := next_shards([longer], Asked(error), seed=3):
            longer = longer.with_results([lognormal(shard) for shard in shards])
        state = longer if last else PointProgress(point).resumed(json.loads(json.dumps(longer.record())))
    for error in (0.1, 0.04):
        assert converge(state, Asked(error))[0] == converge(PointProgress(point), Asked(error))[0]


def test_a_point_that_does_not_converge_is_given_up(point):
    values = np.exp(2 * np.random.default_rng(0).standard_normal(1000))
    reached = tuple(Moments.of(values).model_copy(update={"count": count}) for count in Schedule.of(point).boundaries)
    state = PointProgress(point, reached=reached)
    assert not state.estimate.converged(1e-4)
    assert next_shards([state], Asked(1e-4), seed=0) == []


def test_a_point_out_of_reach_is_given_up_early(point):
    def heavy(shard):
        return lognormal(shard, spread=3.0)

    state, asked = PointProgress(point), Asked(0.001)
    while shards := next_shards([state], asked, seed=3):
        state = state.with_results([heavy(shard) for shard in shards])
    assert state.ended(asked).moments.count < most_samples(point) / 16
    assert not state.ended(asked).estimate.converged(0.001)


def test_the_most_samples_may_be_bounded(point):
    state, _ = converge(PointProgress(point), Asked(1e-3, most=20_000))
    assert state.moments.count == 16_384
    assert converge(PointProgress(point), Asked(1e-3, most=10))[0].moments.count == PILOT_SAMPLES


def test_a_kernel_of_which_all_samples_are_zero_is_given_up(point):
    (shard,) = _round(point)
    dead = ShardResult(key=shard.point.key, index=0, moments=Moments.of(np.zeros(shard.samples)))
    state = PointProgress(point).with_results([dead])
    assert next_shards([state], Asked(0.01), seed=0) == []
    assert state.moments.zeros == PILOT_SAMPLES


def test_several_points_go_together(mlp, point):
    other = KernelPoint.of(mlp(2), (9, 9), "unit", KernelInputs())
    shards = next_shards([PointProgress(point), PointProgress(other), PointProgress(point)], Asked(0.1), seed=0)
    assert [shard.point for shard in shards] == [point, other]
    states = [PointProgress(p).with_results([lognormal(shard) for shard in shards]) for p in (point, other, point)]
    assert [state.moments.count for state in states] == [PILOT_SAMPLES] * 3
    assert states[0] == states[2]


def test_the_order_in_which_results_come_does_not_matter(point):
    asked = Asked(0.02)
    assert converge(PointProgress(point), asked) == converge(PointProgress(point), asked, shuffle=True)


def test_results_must_follow_each_other_up_to_a_boundary(point):
    spec = _round(point)[0]
    state = PointProgress(point).with_results([lognormal(spec), lognormal(spec)])
    assert len(state.reached) == 1  # computed twice, counted once
    with pytest.raises(ValueError, match="do not follow"):
        state.with_results([lognormal(spec)])


def test_part_of_a_round_is_refused(double):
    point = KernelPoint.of(double, (256,), "unit", KernelInputs())
    shards = next_shards([PointProgress(point)], Asked(0.02), seed=3)
    assert len(shards) > 1
    with pytest.raises(ValueError, match="do not follow"):
        PointProgress(point).with_results([lognormal(shard) for shard in shards[:-1]])


def test_a_record_holds_each_extreme_once(point):
    state, _ = converge(PointProgress(point), Asked(0.004))
    assert len(state.reached) > 6
    record = json.loads(json.dumps(state.record()))
    assert PointProgress(point).resumed(record) == state
    assert len(json.dumps(record)) < 3_000 * len(state.reached) + 6_000
    with pytest.raises(ValueError, match="boundaries"):
        PointProgress(point, samples=500).resumed(record)


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
