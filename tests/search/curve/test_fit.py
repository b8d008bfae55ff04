"""The weighted line through the origin: recovers α, distrusts small widths, says what it used."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.curve.fit import LINEAR_LOG_RATIO, Point, fit_line
from collegium.search.kernel.closed_form import log_moment_ratios


def points_of(s, log_ratio, error=0.0):
    return [Point((round(1 / x),), x, y, error * y) for x, y in zip(s, log_ratio, strict=True)]


@given(
    alpha=st.floats(0.1, 20),
    s=st.lists(st.floats(1e-4, 0.9), min_size=1, max_size=20, unique=True),
)
def test_an_exact_line_is_recovered(alpha, s):
    line = fit_line(points_of(s, [alpha * x for x in s]))
    assert line.alpha == pytest.approx(alpha, rel=1e-9)
    assert line.standard_error == pytest.approx(0, abs=1e-9 * alpha)
    assert np.allclose(line.residuals, 0, atol=1e-9 * alpha)


def test_the_standard_error_is_that_of_the_noise():
    generator = np.random.default_rng(0)
    s = np.geomspace(0.001, 0.1, 12)
    found, claimed = [], []
    for _ in range(400):
        noisy = 3.0 * s * (1 + 0.01 * generator.standard_normal(len(s)))
        line = fit_line(points_of(s, noisy, error=0.01), (1, None))
        found.append(line.alpha)
        claimed.append(line.standard_error)
    assert np.mean(found) == pytest.approx(3.0, abs=0.002)
    assert 0.9 < np.mean(claimed) / np.std(found) < 1.3


def test_a_point_of_great_error_hardly_counts():
    good = points_of([0.01, 0.02, 0.04], [0.03, 0.06, 0.12], error=0.01)
    bad = Point((1,), 0.05, 0.3, 0.29)
    assert fit_line([*good, bad], (1, None)).alpha == pytest.approx(3.0, abs=0.01)


def test_the_default_window_escapes_the_trap_of_small_widths(mlp):
    # an unweighted line over n = 1 … 500 gives 2.0; over n ≥ 50 it gives 3.43
    widths = np.arange(1, 501)
    log_ratio = log_moment_ratios(mlp(5), np.repeat(widths[:, None], 5, axis=1))
    s = 5 / widths
    trap = np.polyfit(s, log_ratio, 1)[0]
    points = [Point((int(n),), x, y) for n, x, y in zip(widths, s, log_ratio, strict=True)]
    line = fit_line(points)
    assert trap < 2.1
    assert line.alpha == pytest.approx(3.43, abs=0.02)
    assert max(point.log_ratio for point, used in zip(points, line.used, strict=True) if used) <= LINEAR_LOG_RATIO
    assert line.window == (min(n for n, used in zip(widths, line.used, strict=True) if used), 500)
    assert line.residuals[0] < -5  # and the points outside show how far the line is off there


def test_a_given_window_is_obeyed_and_an_empty_one_refused():
    points = [Point((n,), 1 / n, 3 / n) for n in (4, 8, 16, 32)]
    line = fit_line(points, (8, 16))
    assert line.used == (False, True, True, False)
    assert line.window == (8, 16)
    with pytest.raises(ValueError, match="no point is"):
        fit_line(points, (64, None))


def test_points_that_are_all_noise_are_refused():
    with pytest.raises(ValueError, match="any variance"):
        fit_line([Point((4,), 0.25, 0.0, math.inf), Point((8,), 0.125, -0.1, 0.2)], (1, None))


def test_an_infinite_error_hardly_counts():
    line = fit_line([Point((4,), 0.25, 9.0, math.inf), Point((8,), 0.125, 0.375, 0.004)], (1, None))
    assert line.alpha == pytest.approx(3.0, abs=0.001)
    assert math.isfinite(line.standard_error)


def test_r_squared_falls_with_the_misfit():
    s = np.array([0.01, 0.02, 0.04, 0.08])
    straight = fit_line(points_of(s, 3 * s), (1, None)).r_squared
    bent = fit_line(points_of(s, 3 * s + [0.02, 0, -0.05, 0.05]), (1, None)).r_squared
    assert straight == pytest.approx(1)
    assert bent < 0.95
