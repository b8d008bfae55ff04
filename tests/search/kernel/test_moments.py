"""Moments: merging, and errors that keep their promise where K is heavy-tailed."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from collegium.search.kernel.closed_form import log_moment_ratio
from collegium.search.kernel.moments import EXTREMES, Moments
from collegium.search.sampling.dense import LayerLaw, draw_dense

positive = st.floats(1e-3, 1e3)
samples = arrays(float, st.integers(0, 400), elements=st.floats(-1e3, 1e3))


def same(one: Moments, other: Moments) -> None:
    assert one.count == other.count
    assert one.mean == pytest.approx(other.mean, rel=1e-9, abs=1e-9)
    size = max(1.0, *map(abs, one.extremes)) if one.extremes else 1.0
    for power, name in ((2, "second"), (3, "third"), (4, "fourth")):
        slack = 1e-9 * size**power * max(1, one.count)
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=slack)
    assert one.extremes == other.extremes


@given(samples, samples, samples)
def test_merging_is_associative_and_the_same_as_all_at_once(a, b, c):
    x, y, z = map(Moments.of, (a, b, c))
    same(x.merge(y).merge(z), x.merge(y.merge(z)))
    same(x.merge(y).merge(z), Moments.of(np.concatenate([a, b, c])))


@given(samples, samples)
def test_merging_commutes(a, b):
    same(Moments.of(a).merge(Moments.of(b)), Moments.of(b).merge(Moments.of(a)))


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    same(Moments.of(values), Moments.of(shuffled))


@given(samples)
def test_merging_with_no_samples_changes_nothing(values):
    moments = Moments.of(values)
    assert moments.merge(Moments()) == moments == Moments().merge(moments)


@given(arrays(float, st.integers(40, 300), elements=st.floats(0.01, 100)), positive)
def test_the_scale_of_the_kernel_does_not_matter(values, scale):
    one, other = Moments.of(values).estimate(), Moments.of(values * scale).estimate()
    assert other.log_ratio == pytest.approx(one.log_ratio, rel=1e-7, abs=1e-12)
    assert other.standard_error == pytest.approx(one.standard_error, rel=1e-4, abs=1e-9)
    assert other.tail_index == pytest.approx(one.tail_index, rel=1e-3)


@given(samples)
def test_moments_survive_json(values):
    moments = Moments.of(values)
    assert Moments.model_validate_json(moments.model_dump_json()) == moments
    assert Moments.model_validate(moments.model_dump(mode="json")) == moments


def test_extremes_are_the_largest_in_magnitude():
    values = np.random.default_rng(0).standard_normal(5000)
    extremes = Moments.of(values).extremes
    assert len(extremes) == EXTREMES
    assert list(extremes) == sorted(values, key=abs, reverse=True)[:EXTREMES]


def test_the_ratio_is_that_of_the_samples():
    values = np.random.default_rng(1).gamma(3.0, 2.0, 10_000)
    estimate = Moments.of(values).estimate()
    assert estimate.ratio == pytest.approx((values**2).mean() / values.mean() ** 2, rel=1e-12)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.samples == 10_000


def test_small_variances_do_not_cancel():
    noise = np.random.default_rng(2).standard_normal(20_000) * 1e-7
    estimate = Moments.of(1 + noise).estimate()
    assert estimate.log_ratio == pytest.approx(noise.var(), rel=1e-6)
    assert estimate.standard_error == pytest.approx(noise.var() * math.sqrt(2 / 20_000), rel=0.1)


def test_a_constant_kernel_has_no_error():
    estimate = Moments.of(np.full(1000, 3.0)).estimate()
    assert (estimate.log_ratio, estimate.relative_error) == (0.0, 0.0)
    assert estimate.converged(1e-4)


@pytest.mark.parametrize(
    "values", [np.zeros(1000), [1.0, 2.0], np.eye(1, 1000)], ids=["all zero", "too few", "one not zero"]
)
def test_too_few_samples_have_an_infinite_error(values):
    estimate = Moments.of(values).estimate()
    assert math.isinf(estimate.standard_error)
    assert not estimate.converged(0.5)


def test_no_samples_and_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        Moments().estimate()
    with pytest.raises(ValueError, match="not finite"):
        Moments.of([1.0, math.nan])


def errors(draw, exact: float, repeats: int) -> np.ndarray:
    """(estimate − exact) / standard error, and the same with the plain error, of repeated estimates."""
    estimates = [Moments.of(draw()).estimate() for _ in range(repeats)]
    return np.array(
        [((e.log_ratio - exact) / e.standard_error, (e.log_ratio - exact) / e.plain_error) for e in estimates]
    )


@pytest.mark.parametrize(
    ("widths", "count"),
    [((8,) * 5, 1_000), ((8,) * 5, 20_000), ((16,) * 5, 10_000), ((2, 2, 2), 10_000)],
    ids=str,
)
def test_errors_cover_where_the_tail_is_heavy(mlp, widths, count):
    layers = [LayerLaw(n, 2 / n, True) for n in widths] + [LayerLaw(1, 1 / widths[-1], False)]
    generator = torch.Generator().manual_seed(7)
    exact = log_moment_ratio(mlp(len(widths)), widths)
    scores = errors(lambda: draw_dense(layers, count, generator).kernel.numpy(), exact, 60)
    fitted, plain = (np.abs(scores) < 2).mean(axis=0)
    assert fitted >= 0.9
    assert (np.abs(scores[:, 0]) < 3).mean() >= 0.98
    assert plain <= fitted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "widths"),
    [
        *product([1_000, 8_192], [(1,) * 3, (2,) * 4, (1,) * 6, (8,) * 5, (4,) * 12, (64,) * 5, (4,) * 24]),
        *product([65_536], [(1,) * 6, (8,) * 5]),
    ],
    ids=str,
)
def test_errors_are_about_as_large_as_the_true_ones(mlp, widths, count):
    layers = [LayerLaw(n, 2 / n, True) for n in widths] + [LayerLaw(1, 1 / widths[-1], False)]
    generator = torch.Generator().manual_seed(11)
    exact = log_moment_ratio(mlp(len(widths)), widths)
    drawn = [Moments.of(draw_dense(layers, count, generator).kernel.numpy()) for _ in range(40)]
    estimates = [moments.estimate(len(widths) + 1) for moments in drawn]
    wrong = np.array([estimate.log_ratio - exact for estimate in estimates])
    claimed = np.array([estimate.standard_error for estimate in estimates])
    assert 1 / 3 < np.median(claimed) / np.sqrt(np.mean(wrong**2)) < 3
    assert np.mean(np.abs(wrong) < 2 * claimed) >= 0.9
    # and what has converged has
    sure = [abs(miss) for miss, estimate in zip(wrong, estimates, strict=True) if estimate.converged(0.05)]
    assert max(sure, default=0) < 0.25 * exact


def test_the_tail_is_bounded_by_the_depth_of_the_network():
    # three layers of one unit: seven of eight samples are of a dead network, the true error is 0.33
    layers = [LayerLaw(1, 2.0, True)] * 3 + [LayerLaw(1, 1.0, False)]
    moments = Moments.of(draw_dense(layers, 8_192, torch.Generator().manual_seed(3)).kernel.numpy())
    assert moments.zeros == pytest.approx(8_192 * 7 / 8, rel=0.02)
    assert 0.1 < moments.estimate(4).standard_error < 1.5


def test_a_ratio_beyond_the_samples_is_not_believed():
    # ln r = 36: the samples show at most ln of their number
    values = np.exp(6 * np.random.default_rng(8).standard_normal(1_000))
    estimate = Moments.of(values).estimate(3)
    assert estimate.log_ratio < math.log(1_000)
    assert estimate.saturated
    assert not estimate.converged(0.5)


def test_heavy_tails_are_flagged():
    generator = np.random.default_rng(3)
    assert Moments.of(np.exp(1.2 * generator.standard_normal(5_000))).estimate().heavy
    assert not Moments.of(np.exp(0.1 * generator.standard_normal(5_000))).estimate().heavy


def test_errors_are_not_inflated_where_the_tail_is_light():
    generator = np.random.default_rng(4)
    scores = errors(lambda: np.exp(0.1 * generator.standard_normal(4_000)), 0.01, 300)
    assert scores[:, 0].std() == pytest.approx(1.0, abs=0.15)
    assert (np.abs(scores[:, 0]) < 2).mean() == pytest.approx(0.954, abs=0.035)


def test_errors_cover_the_truth_for_entries_of_either_sign():
    # K = 1 + 2 z: E[K²] / E[K]² = 5, and the largest samples are partly negative
    generator = np.random.default_rng(5)
    scores = errors(lambda: 1 + 2 * generator.standard_normal(4_000), math.log(5), 200)
    assert (np.abs(scores[:, 0]) < 2).mean() >= 0.92
