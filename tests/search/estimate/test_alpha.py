"""The α of an answer."""

from __future__ import annotations

import json

import pytest

from collegium.search.errors import InvalidSpec
from collegium.search.estimate.alpha import exact_points, fit_alpha
from collegium.search.optimize.problem import build_problem
from collegium.search.spec import SearchSpec


def alpha(**asked):
    problem = build_problem(SearchSpec.model_validate_json(json.dumps(asked)))
    return fit_alpha(problem, exact_points(problem))


def test_exact_points_reach_from_width_one_to_the_baseline():
    problem = build_problem(
        SearchSpec.model_validate_json('{"baseline": {"preset": "resnet50"}, "space": {"min_width": 30}}')
    )
    points = exact_points(problem)
    assert points[0].widths == (1, 1)
    assert points[-1].widths == (64, 64)
    assert len(points) <= 40


def test_the_window_asked_for_is_used_and_told():
    found = alpha(baseline={"preset": "mlp-mnist-6x500"}, estimator={"window": {"min_width": 100, "max_width": 300}})
    assert 100 <= found.window.min_width <= found.window.max_width <= 300
    assert all(point.used == (100 <= point.width <= 300) for point in found.points)
    assert found.value == pytest.approx(3.44, abs=0.01)
    assert found.method == "exact"


def test_the_slope_leaves_constant_terms_out():
    found = alpha(baseline={"preset": "resnet50"}, inputs={"correlation": 1.0})
    assert found.value < found.slope
    assert found.slope == pytest.approx(5.55, abs=0.2)
    mlp = alpha(baseline={"preset": "mlp-mnist-6x500"})
    assert mlp.slope == pytest.approx(mlp.value)


def test_residuals_are_against_the_line():
    found = alpha(baseline={"preset": "resnet50"})
    for point in found.points:
        assert point.residual == pytest.approx(point.log_moment_ratio - found.value * point.inverse_fan_in_sum)


def test_a_window_without_points_is_refused():
    with pytest.raises(InvalidSpec, match="no point") as refused:
        alpha(baseline={"preset": "resnet50"}, estimator={"window": {"min_width": 1000}})
    assert refused.value.path == ("estimator", "window")
