"""Which members are sampled, and the curve through them; the sampler is a fast fake whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from collegium.search.curve.smooth import varying_sums
from collegium.search.engine import run
from collegium.search.estimate.sampled_curve import sample_correlations, sample_curve
from collegium.search.kernel.moments import Moments
from collegium.search.optimize.problem import build_problem
from collegium.search.plot import plot
from collegium.search.progress import discard
from collegium.search.result import SearchResult
from collegium.search.sampling.estimation import Estimation
from collegium.search.sampling.local import compute_here
from collegium.search.sampling.shards import ShardResult
from collegium.search.spec import SearchSpec

MONTE_CARLO = {"method": "monte_carlo"}


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
    assert widths[-3:] == [128, 256, 512]  # the baseline's in each stage
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
    assert len({point.widths for point in compute.points}) == 5 + 3  # and the later stages' baselines


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
    assert "20 to 30" in result.outcome.message
    assert "auto" in result.outcome.remedy
    assert [point.converged for point in result.alpha.points if point.width == 1] == [False]
    assert result.primal is not None
    # what has not converged is not in the answer
    assert {row.width for row in result.curve} == {20, 30}


def test_without_the_baseline_there_is_no_answer():
    asked = spec(baseline={"family": "mlp", "inputs": 9, "hidden": [8] * 12}, estimator=MONTE_CARLO | {"samples": 500})
    result = run(asked, map_shards=Sampled(lambda point: 25.0))
    assert result.outcome.kind == "not_converged"
    assert "no answer" in result.outcome.message
    assert result.primal is result.dual is result.near_optimal is result.confidence is None
    assert result.baseline.variance is None
    assert result.alpha.value is None
    assert result.curve == ()
    assert all(not point.converged for point in result.alpha.points)
    assert SearchResult.model_validate_json(result.model_dump_json()) == result
    assert plot(result)


def test_a_kernel_that_is_zero_is_an_outcome_that_names_the_cause():
    compute = Sampled(lambda point: 0.0)
    pair = run(spec(baseline={"preset": "resnet50"}, inputs={"pair": {"cosine": -1.0}}), map_shards=compute)
    assert len(compute.points) < 40
    assert pair.outcome.kind == "not_converged"
    assert "cosine -1" in pair.outcome.message
    assert "inputs.pair.cosine" in pair.outcome.remedy
    assert all(point.log_moment_ratio is None for point in pair.alpha.points)
    dead = run(spec(baseline={"family": "mlp", "inputs": 9, "hidden": [3] * 64}), map_shards=Sampled(lambda point: 0.0))
    assert dead.outcome.kind == "not_converged"
    assert "dead" in dead.outcome.message
    assert "pair" not in dead.outcome.message + dead.outcome.remedy


@pytest.mark.parametrize("hidden", [[8] * 12, [60] * 3, [5] * 8, [30, 20, 10]], ids=str)
@pytest.mark.parametrize("samples", [100, 2_000, 20_000])
def test_no_variance_is_below_what_was_sampled(hidden, samples):
    for seed in range(3):
        estimator = {**MONTE_CARLO, "samples": samples, "seed": seed}
        problem = build_problem(spec(baseline={"family": "mlp", "inputs": 64, "hidden": hidden}, estimator=estimator))
        estimation = Estimation(0.01, seed, compute_here("cpu"), samples=samples)
        found = sample_curve(problem, estimation, discard)
        used = [point for point in found.points if point.converged]
        assert len(found.members) == 0 or used
        if not found.members:
            continue
        table = np.array(found.members)
        values = found.log_ratios(table)
        assert np.isfinite(values).all()
        assert (values > 0).all()
        t = varying_sums(problem.network, table)
        assert (np.diff(values[np.argsort(t)]) >= -1e-9).all()
        # nothing is claimed beyond the points that converged
        ends = varying_sums(problem.network, np.array([point.widths for point in used]))
        assert ends.min() <= t.min() * (1 + 1e-9)
        assert t.max() <= ends.max() * (1 + 1e-9)


def test_every_stage_of_a_residual_network_is_sampled():
    problem = build_problem(spec(baseline={"preset": "resnet50"}))
    assert problem.scales == (1, 2, 4, 8)
    found = sample_curve(problem, Estimation(0.05, 0, Sampled(bent)), discard)
    assert {(64 * scale, 64 * scale) for scale in problem.scales} <= {point.widths for point in found.points}
    table = np.array([(scale * width, scale * width) for width in (10, 64) for scale in problem.scales])
    assert np.isfinite(found.log_ratios(table)).all()
    listed = build_problem(spec(baseline={"preset": "resnet50"}, space={"widths": [10, [8, 12]]}))
    found = sample_curve(listed, Estimation(0.05, 0, Sampled(bent)), discard)
    assert found.members == ((10, 10), (8, 12))
    assert np.isfinite(found.log_ratios(np.array([(80, 80), (64, 96), (512, 512)]))).all()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_listed_members_fall_with_the_width_where_theory_says_so(activation):
    baseline = {"family": "mlp", "inputs": 10, "hidden": [40, 40], "activation": activation}
    widths = [*range(20, 41, 2), [20, 31], [31, 20]]
    fixed = {"method": "monte_carlo", "samples": 400}  # with errors of the size of the steps
    problem = build_problem(spec(baseline=baseline, space={"widths": widths}, estimator=fixed))
    compute = Sampled(lambda point: sum(1 / width for width in point.widths))
    found = sample_curve(problem, Estimation(0.02, 0, compute, samples=400), discard)
    sampled = {point.widths: point.log_ratio for point in found.points}
    value = dict(zip(found.members, found.log_ratios(np.array(found.members)).tolist(), strict=True))
    assert len(value) == len(widths)
    pairs = [(one, other) for one in value for other in value if all(map(int.__le__, one, other))]
    assert any(sampled[one] < sampled[other] for one, other in pairs)
    if activation == "relu":
        assert all(value[one] >= value[other] for one, other in pairs)
    else:
        assert value == {widths: sampled[widths] for widths in value}


def test_members_in_the_window_of_alpha_are_sampled():
    window = {"min_width": 90, "max_width": 100}
    asked = spec(baseline={"preset": "resnext29-1x128d"}, estimator=MONTE_CARLO | {"window": window, "samples": 3_000})
    result = run(asked, map_shards=Sampled(bent))
    assert result.alpha.value is not None
    assert sum(point.used for point in result.alpha.points) >= 2
    none = run(
        spec(
            baseline={"preset": "resnext29-1x128d"},
            estimator={**MONTE_CARLO, "window": {"min_width": 500}, "samples": 3_000},
        ),
        map_shards=Sampled(bent),
    )
    assert none.alpha.value is None
    assert none.primal is not None
    assert any("no α" in note.message for note in none.notes)


@pytest.mark.slow
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
