"""Which members are sampled, and the curve through them; the sampler is a fast fake whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.estimate.sampled_curve import sample_correlations, sample_curve
from collegium.search.kernel.moments import Moments
from collegium.search.optimize.problem import build_problem
from collegium.search.progress import discard
from collegium.search.sampling.estimation import Estimation
from collegium.search.sampling.shards import ShardResult
from collegium.search.spec import SearchSpec


class Sampled:
    """Kernels of a given ln r; every shard is asked through the same interface as a real one."""

    def __init__(self, log_ratio):
        self.log_ratio, self.points = log_ratio, []

    def __call__(self, shards, report=None):
        return [self._one(shard) for shard in shards]

    def _one(self, shard):
        self.points.append(shard.point)
        value = self.log_ratio(shard.point)
        noise = np.random.default_rng(shard.generator_seed).standard_normal(shard.samples)
        kernel = np.exp(math.sqrt(value) * noise - value / 2) if value else np.zeros(shard.samples)
        return ShardResult(key=shard.point.key, index=shard.index, moments=Moments.of(kernel))


def spec(**asked):
    return SearchSpec.model_validate_json(json.dumps({"estimator": {"method": "monte_carlo"}, **asked}))


def bent(point):
    """ln r that bends as a bottleneck's does."""
    s = 10 / (9 * point.widths[0])
    return 5 * s / (1 + s)


def test_the_design_spans_the_space_and_the_curve_finds_the_truth():
    problem = build_problem(spec(baseline={"preset": "resnext29-1x128d"}))
    compute = Sampled(bent)
    found = sample_curve(problem, Estimation(0.02, 0, compute), discard)
    widths = [point.widths[0] for point in found.points]
    assert widths == sorted(widths)
    assert widths[-1] == 128
    assert 4 <= widths[0] <= 8
    members = np.array([member for member in found.members if member[0] >= widths[0]])
    truth = np.array([5 * s / (1 + s) for s in 10 / (9 * members[:, 0])])
    assert found.log_ratios(members) == pytest.approx(truth, rel=0.03)
    # nothing is claimed of narrower members than were sampled
    assert found.members[0][0] == widths[0]
    assert np.isinf(found.log_ratios(np.array([[1, 1]]))[0])


def test_narrower_members_are_added_where_the_optimum_is_at_the_end():
    problem = build_problem(spec(baseline={"preset": "resnext29-1x128d"}))
    flat = Sampled(lambda point: 0.02 + 0.3 / point.widths[0])  # narrow members hardly cost variance
    found = sample_curve(problem, Estimation(0.05, 0, flat), discard)
    assert found.points[0].widths[0] < 5
    assert len(found.points) > 9


def test_correlations_are_sampled_at_few_points_and_a_larger_error():
    problem = build_problem(spec(baseline={"preset": "resnet50"}))
    compute = Sampled(bent)
    estimation = Estimation(0.02, 0, compute)
    curve = sample_curve(problem, estimation, discard)
    compute.points.clear()
    found = sample_correlations(problem, estimation, curve.points, discard)
    assert list(found) == [0.8, 0.9, 1.0]
    assert {point.correlation for point in compute.points} == {0.8, 0.9, 1.0}
    assert len({point.widths for point in compute.points}) == 5


def test_a_member_that_does_not_converge_is_told():
    asked = spec(
        baseline={"family": "mlp", "inputs": 9, "hidden": [40] * 4},
        estimator={"method": "monte_carlo", "relative_error": 0.02},
        space={"widths": [1, 20, 30]},
    )

    def heavy(point):
        return 6.0 if point.widths[0] == 1 else bent(point)

    # Heavy tails run to the largest number of samples, which the fake makes small
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("collegium.search.sampling.schedule.MOST_SAMPLES", 20_000)
        result = run(asked, map_shards=Sampled(heavy))
    assert result.outcome.kind == "not_converged"
    assert "relative_error" in result.outcome.remedy
    assert [point.converged for point in result.alpha.points if point.width == 1] == [False]
    assert result.primal is not None


def test_a_kernel_that_is_zero_is_refused():
    asked = spec(baseline={"preset": "resnet50"}, inputs={"pair": {"cosine": -1.0}})
    compute = Sampled(lambda point: 0.0)
    with pytest.raises(InvalidSpec) as refused:
        run(asked, map_shards=compute)
    assert len(compute.points) < 20
    assert refused.value.path == ("inputs", "pair")


def test_the_confidence_is_as_large_as_the_error_says():
    """Over many noisy searches, n* of the truth is missed about as often as one of them claims."""
    problem = build_problem(spec(baseline={"preset": "resnext29-1x128d"}))
    claimed, hit = [], []
    truth = run(spec(baseline={"preset": "resnext29-1x128d"}, estimator={"method": "exact"})).primal.width

    def exact(point):
        return float(problem.exact(np.array([point.widths]))[0])

    for seed in range(12):
        asked = spec(
            baseline={"preset": "resnext29-1x128d"},
            estimator={"method": "monte_carlo", "samples": 20_000, "seed": seed},
            inputs={"gram": np.full((9, 9), 2.0).tolist()},
        )
        result = run(asked, map_shards=Sampled(exact))
        claimed.append(result.confidence.frequency)
        hit.append(result.confidence.low <= truth <= result.confidence.high)
    assert np.mean(hit) >= 0.7
    assert 0.05 < np.mean(claimed) < 0.95
