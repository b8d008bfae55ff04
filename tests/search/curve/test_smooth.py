"""The smooth curve through sampled points: it follows the truth's bend within its own error, and is monotone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.curve.fit import Point
from collegium.search.curve.smooth import constant_sum, fit_increasing, varying_sums
from collegium.search.kernel.closed_form import log_moment_ratios
from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.spec import PresetBaseline


def sampled(t, truth, error, generator):
    noisy = truth * (1 + error * generator.standard_normal(len(t)))
    return [Point((1,), x, y, error * y) for x, y in zip(t, noisy, strict=True)]


@pytest.fixture(scope="module")
def curve_of_figure_3(mlp):
    widths = np.array([20, 30, 45, 67, 100, 150, 224, 334, 500])
    return widths, 5 / widths, log_moment_ratios(mlp(5), np.repeat(widths[:, None], 5, axis=1))


def test_it_follows_the_bend_that_a_line_misses(curve_of_figure_3, mlp):
    _, t, truth = curve_of_figure_3
    curve = fit_increasing([Point((1,), x, y) for x, y in zip(t, truth, strict=True)], t, degree=5, offset=False)
    between = np.array([25, 36, 50, 80, 200, 400])
    exact = log_moment_ratios(mlp(5), np.repeat(between[:, None], 5, axis=1))
    assert curve(5 / between) == pytest.approx(exact, rel=1e-3)


def test_the_fits_error_covers_the_truth(curve_of_figure_3):
    _, t, truth = curve_of_figure_3
    generator = np.random.default_rng(1)
    apart = []
    for _ in range(60):
        curve = fit_increasing(sampled(t, truth, 0.01, generator), t, degree=5, offset=False)
        apart.append((curve(t) - truth) / curve.standard_error(t))
    assert 0.7 < np.sqrt(np.mean(np.square(apart))) < 1.5


def test_redrawn_curves_spread_by_the_standard_error(curve_of_figure_3):
    _, t, truth = curve_of_figure_3
    curve = fit_increasing(sampled(t, truth, 0.02, np.random.default_rng(2)), t, degree=5, offset=False)
    drawn = curve.redraw(t, np.random.default_rng(3), 5000)
    assert drawn.shape == (5000, len(t))
    assert drawn.mean(0) == pytest.approx(curve(t), rel=0.02)
    assert drawn.std(0) == pytest.approx(curve.standard_error(t), rel=0.1)
    assert (curve.standard_error(t) < 0.03 * truth).all()


@given(
    truth=st.lists(st.floats(-1, 9), min_size=1, max_size=12),
    error=st.floats(0.001, 4),
    offset=st.booleans(),
    degree=st.integers(1, 64),
)
@settings(max_examples=25)
def test_a_curve_rises_with_t_and_is_never_negative(truth, error, offset, degree):
    t = np.geomspace(0.01, 2, len(truth))
    points = [Point((1,), x, max(y, 0.0), error) for x, y in zip(t, truth, strict=True)]
    curve = fit_increasing(points, t, degree=degree, offset=offset)
    everywhere = np.geomspace(0.01, 2, 300)
    for values in (curve(everywhere), *curve.redraw(everywhere, np.random.default_rng(0), 20)):
        assert (values >= 0).all()
        assert (np.diff(values) >= -1e-12 * (1 + values[1:])).all()


@pytest.mark.parametrize("layers", [2, 5, 12, 40])
def test_deep_networks_are_fitted_from_one_end_to_the_other(mlp, layers):
    widths = np.unique(np.geomspace(8, 200, 12).round().astype(int))
    t, between = layers / widths, np.array([9, 14, 22, 37, 61, 103])
    exact = log_moment_ratios(mlp(layers), np.repeat(widths[:, None], layers, axis=1))
    points = [Point((n,), x, y, 0.01 * y) for n, x, y in zip(widths, t, exact, strict=True)]
    curve = fit_increasing(points, t, degree=layers, offset=False)
    truth = log_moment_ratios(mlp(layers), np.repeat(between[:, None], layers, axis=1))
    assert curve(layers / between) == pytest.approx(truth, rel=0.01)
    assert curve.chi_squared < len(points)


def test_a_concave_part_is_followed_where_the_points_ask_for_it():
    t = np.geomspace(0.01, 1, 10)
    truth = 0.3 * t / (t + 0.05)
    curve = fit_increasing(
        [Point((1,), x, y, 0.005 * y) for x, y in zip(t, truth, strict=True)], t, degree=3, offset=False
    )
    assert curve(t) == pytest.approx(truth, rel=0.02)


def test_an_outlier_of_great_error_does_not_bend_the_curve(curve_of_figure_3):
    _, t, truth = curve_of_figure_3
    points = sampled(t, truth, 0.005, np.random.default_rng(4))
    points[0] = Point((1,), t[0], truth[0] - 0.5, 1.0)
    curve = fit_increasing(points, t, degree=5, offset=False)
    assert curve(t[1:]) == pytest.approx(truth[1:], rel=0.02)


def test_few_points_are_enough_and_none_is_refused():
    one = fit_increasing([Point((8,), 0.1, 0.3, 0.01)], np.array([0.1]), degree=3, offset=False)
    assert one(np.array([0.1])) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="no points"):
        fit_increasing([], np.array([]), degree=3, offset=False)


def test_an_offset_keeps_the_variance_of_fixed_layers():
    t = np.geomspace(0.01, 0.2, 8)
    points = [Point((1,), x, np.log1p(0.2 + 3 * x), 1e-4) for x in t]
    assert fit_increasing(points, t, degree=3, offset=True)(np.array([1e-6])) == pytest.approx(np.log1p(0.2), abs=1e-3)


def test_the_varying_part_and_the_constant_make_up_s():
    block = BlockBaseline.model_validate_json(
        """{"family": "block", "input": {"channels": 12, "height": 6, "width": 6}, "widths": {"a": 8, "b": 5},
        "layers": [{"type": "conv", "out": "a", "kernel": 3}, {"type": "relu"}, {"type": "conv", "out": "b"},
        {"type": "relu"}, {"type": "conv", "out": "a", "kernel": 3}, {"type": "relu"}, {"type": "dense", "out": 3}]}"""
    )
    for baseline in (PresetBaseline(preset="resnet50"), PresetBaseline(preset="mlp-cifar-400-200-100"), block):
        network = build_network(baseline)
        members = np.arange(1, 1 + 4 * len(network.baseline)).reshape(4, -1)
        expected = [network.inverse_fan_in_sum(tuple(map(int, member))) for member in members]
        assert constant_sum(network) + varying_sums(network, members) == pytest.approx(expected, rel=1e-12)
    assert constant_sum(build_network(PresetBaseline(preset="resnet50"))) == pytest.approx(1 / 256)
