"""The smooth curve through sampled points: follows the truth's bend, and knows its own error."""

from __future__ import annotations

import numpy as np
import pytest

from collegium.search.curve.fit import Point
from collegium.search.curve.smooth import constant_sum, fit_polynomial, varying_sums
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
    curve = fit_polynomial([Point((1,), x, y) for x, y in zip(t, truth, strict=True)], t, offset=False)
    between = np.array([25, 36, 50, 80, 200, 400])
    exact = log_moment_ratios(mlp(5), np.repeat(between[:, None], 5, axis=1))
    assert curve(5 / between) == pytest.approx(exact, rel=0.005)


def test_the_polynomials_error_covers_the_truth(curve_of_figure_3):
    _, t, truth = curve_of_figure_3
    generator = np.random.default_rng(1)
    apart = []
    for _ in range(200):
        curve = fit_polynomial(sampled(t, truth, 0.01, generator), t, offset=False)
        apart.append((curve(t) - truth) / curve.standard_error(t))
    assert 0.7 < np.sqrt(np.mean(np.square(apart))) < 1.5


def test_redrawn_curves_spread_by_the_standard_error(curve_of_figure_3):
    _, t, truth = curve_of_figure_3
    curve = fit_polynomial(sampled(t, truth, 0.02, np.random.default_rng(2)), t, offset=False)
    drawn = curve.redraw(t, np.random.default_rng(3), 5000)
    assert drawn.shape == (5000, len(t))
    assert drawn.mean(0) == pytest.approx(curve(t), rel=0.01)
    assert drawn.std(0) == pytest.approx(curve.standard_error(t), rel=0.06)


def test_few_points_are_enough_and_none_is_refused():
    one = fit_polynomial([Point((8,), 0.1, 0.3, 0.01)], np.array([0.1]), offset=False)
    assert one(np.array([0.05])) == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no points"):
        fit_polynomial([], np.array([]), offset=False)


def test_an_offset_keeps_the_variance_of_fixed_layers():
    t = np.geomspace(0.01, 0.2, 8)
    points = [Point((1,), x, 0.2 + 3 * x, 1e-4) for x in t]
    assert fit_polynomial(points, t, offset=True)(np.array([1e-6])) == pytest.approx(0.2, abs=1e-3)


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
