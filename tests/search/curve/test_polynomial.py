"""The curve of sampled points that need not be monotone: it follows the truth within its error, and invents nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.curve.fit import Point
from collegium.search.curve.polynomial import fit_polynomial
from collegium.search.kernel.closed_form import log_moment_ratios


def points_at(t, log_ratio, error=0.0, generator=None):
    noise = 0.0 if generator is None else error * generator.standard_normal(len(t))
    return [Point((1,), x, y, error * y) for x, y in zip(t, log_ratio * (1 + noise), strict=True)]


@pytest.fixture(scope="module")
def figure_3(mlp):
    widths = np.array([20, 30, 45, 67, 100, 150, 224, 334, 500])
    return 5 / widths, log_moment_ratios(mlp(5), np.repeat(widths[:, None], 5, axis=1))


def test_it_follows_the_bend_that_a_line_misses(figure_3, mlp):
    t, truth = figure_3
    curve = fit_polynomial(points_at(t, truth), t, offset=False)
    between = np.array([25, 36, 50, 80, 200, 400])
    exact = log_moment_ratios(mlp(5), np.repeat(between[:, None], 5, axis=1))
    assert curve(5 / between) == pytest.approx(exact, rel=3e-3)


def test_it_follows_what_falls_as_well():
    t = np.linspace(0.05, 1, 12)
    truth = np.log1p(3 * t - 2.4 * t**2)
    curve = fit_polynomial(points_at(t, truth, 1e-3), t, offset=False)
    assert curve(t) == pytest.approx(truth, rel=1e-2)
    assert curve(np.array([0.6]))[0] > curve(np.array([1.0]))[0]


def test_the_fits_error_covers_the_truth_and_is_the_spread_of_redrawn_curves(figure_3):
    t, truth = figure_3
    generator, apart = np.random.default_rng(1), []
    for _ in range(60):
        curve = fit_polynomial(points_at(t, truth, 0.01, generator), t, offset=False)
        apart.append((curve(t) - truth) / curve.standard_error(t))
    assert 0.7 < np.sqrt(np.mean(np.square(apart))) < 1.5
    drawn = curve.redraw(t[:-1], generator, 5000)  # the last point is the least that was sampled, and cut off there
    assert drawn.std(0) == pytest.approx(curve.standard_error(t[:-1]), rel=0.1)


@given(truth=st.lists(st.floats(0.001, 5), min_size=1, max_size=12), error=st.floats(0.001, 1), offset=st.booleans())
@settings(deadline=None)
def test_nothing_lies_below_the_least_that_was_sampled(truth, error, offset):
    t = np.geomspace(0.01, 1, len(truth))
    curve = fit_polynomial(points_at(t, np.array(truth), error), t, offset=offset)
    grid = np.linspace(0.01, 1, 50)
    assert (curve(grid) >= min(truth) * (1 - 1e-9)).all()
    assert (curve.redraw(grid, np.random.default_rng(0), 20) >= min(truth) * (1 - 1e-9)).all()


def test_an_offset_keeps_the_variance_of_fixed_layers():
    t = np.geomspace(0.01, 1, 8)
    curve = fit_polynomial(points_at(t, np.log1p(0.3 + 2 * t), 1e-3), t, offset=True)
    assert curve(np.array([0.01])) == pytest.approx(np.log1p(0.32), rel=1e-2)


def test_none_is_refused():
    with pytest.raises(ValueError, match="no points"):
        fit_polynomial([], np.array([]), offset=False)
