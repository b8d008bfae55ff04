"""Shards computed: the same numbers wherever they are computed, and they converge to the closed form."""

from __future__ import annotations

import pytest

from collegium.search.kernel.closed_form import log_moment_ratio
from collegium.search.kernel.inputs import KernelInputs
from collegium.search.kernel.point import KernelPoint
from collegium.search.sampling.conv import ConvSampler
from collegium.search.sampling.dense import DenseSampler
from collegium.search.sampling.sampler import build_sampler, compute_shard
from collegium.search.sampling.schedule import shard_samples
from collegium.search.sampling.shards import Asked, PointProgress, ShardSpec, next_shards
from collegium.search.spec import PairSpec


def test_the_sampler_fits_the_point(mlp, bottleneck, double):
    def chosen(chain, widths, entry="unit", inputs=None):
        return type(build_sampler(KernelPoint.of(chain, widths, entry, inputs or KernelInputs())))

    assert chosen(mlp(2), (4, 4)) is DenseSampler
    assert chosen(bottleneck, (4,)) is DenseSampler
    assert chosen(bottleneck, (4,), "pooled") is ConvSampler
    assert chosen(double, (4,)) is ConvSampler
    assert chosen(mlp(2), (4, 4), inputs=KernelInputs(pair=PairSpec(cosine=0.5))) is ConvSampler


@pytest.mark.parametrize("width", [3, 40])
def test_a_shard_is_reproducible(bottleneck, double, width):
    for chain in (bottleneck, double):
        point = KernelPoint.of(chain, (width,), "unit", KernelInputs())
        spec = ShardSpec(point=point, index=2, samples=300, seed=5)
        first = compute_shard(spec)
        assert compute_shard(ShardSpec.model_validate_json(spec.model_dump_json())) == first
        assert compute_shard(spec.model_copy(update={"index": 3})).moments != first.moments
        assert compute_shard(spec.model_copy(update={"seed": 6})).moments != first.moments
        assert (first.key, first.index, first.moments.count) == (point.key, 2, 300)


def test_reports_end_at_one_and_may_stop_the_work(double):
    point = KernelPoint.of(double, (64,), "unit", KernelInputs())
    samples = shard_samples(point) // 2
    fractions: list[float] = []
    compute_shard(ShardSpec(point=point, index=0, samples=samples, seed=0), report=lambda f, _: fractions.append(f))
    assert len(fractions) > 1
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

    class Enough(Exception):
        pass

    def stop(fraction: float, message: str) -> None:
        raise Enough(message)

    with pytest.raises(Enough, match="samples"):
        compute_shard(ShardSpec(point=point, index=0, samples=samples, seed=0), report=stop)


def test_adaptive_estimates_stop_at_the_asked_error_and_hold_it(mlp):
    widths = (8,) * 5
    exact = log_moment_ratio(mlp(5), widths)
    point = KernelPoint.of(mlp(5), widths, "unit", KernelInputs())
    apart = []
    for seed in range(12):
        state = PointProgress(point)
        while shards := next_shards([state], Asked(0.05), seed=seed):
            state = state.with_results([compute_shard(shard) for shard in shards])
        assert state.estimate.relative_error <= 0.05
        apart.append(abs(state.estimate.log_ratio - exact) / state.estimate.standard_error)
    assert max(apart) < 3
    assert sum(value < 2 for value in apart) >= 10
