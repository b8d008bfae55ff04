"""r − 1 is a non-negative polynomial of the inverse widths: found from few points, and not misled as s(n) is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.curve.fit import Point
from collegium.search.curve.surface import fit_surface
from collegium.search.engine import run
from collegium.search.optimize.problem import build_problem
from collegium.search.spec import SearchSpec

BASELINES = {
    "bottleneck": {"preset": "resnet50"},
    "mlp": {"family": "mlp", "inputs": 30, "hidden": [60, 60, 60]},
}


def setting(name, count=40, error=0.0, seed=0):
    problem = build_problem(SearchSpec.model_validate_json(json.dumps({"baseline": BASELINES[name]})))
    generator = np.random.default_rng(seed)
    widths = np.unique(generator.integers(4, 60, (count, len(problem.network.baseline))), axis=0)
    truth = problem.exact(widths)
    noisy = truth * (1 + error * generator.standard_normal(len(truth)))
    points = [
        Point(tuple(map(int, member)), problem.network.inverse_fan_in_sum(tuple(map(int, member))), y, error * y)
        for member, y in zip(widths, noisy, strict=True)
    ]
    return problem, points


@pytest.mark.parametrize("name", BASELINES)
@given(data=st.data())
def test_the_closed_form_is_such_a_polynomial(name, data):
    problem, points = setting(name)
    surface = fit_surface(problem.network, points, 0)
    low = surface.narrowest.astype(int)
    widths = [tuple(data.draw(st.integers(int(n), 500)) for n in low)]
    found, truth = surface(np.array(widths))[0], problem.exact(np.array(widths))[0]
    assert found == pytest.approx(truth, rel=1e-6) or (np.isinf(found) and truth > surface.largest)


def test_noise_is_averaged_and_the_error_is_known():
    problem, points = setting("mlp", error=0.02)
    surface = fit_surface(problem.network, points, 0)
    members = np.array([(20, 30, 10), (12, 12, 12), (50, 40, 30)])
    truth = problem.exact(members)
    drawn = surface.redraw(members, np.random.default_rng(1), 3000)
    assert drawn.shape == (3000, 3)
    assert surface(members) == pytest.approx(truth, rel=0.03)
    assert (np.abs(surface(members) - truth) < 5 * drawn.std(axis=0)).all()
    assert (drawn.std(axis=0) < 0.02 * truth).all()
    assert surface.chi_squared < 3 * len(points)


def test_nothing_is_claimed_beyond_what_was_sampled():
    problem, points = setting("bottleneck")
    surface = fit_surface(problem.network, points, 0)
    assert np.isinf(surface(np.array([[1, 50]]))[0])
    assert np.isfinite(surface(np.array([[500, 500]]))[0])


@pytest.mark.parametrize("widths", [[60] * 8])
def test_many_layers_share_their_higher_orders(widths):
    spec = {"baseline": {"family": "mlp", "inputs": 30, "hidden": widths}}
    problem = build_problem(SearchSpec.model_validate_json(json.dumps(spec)))
    generator = np.random.default_rng(0)
    table = generator.integers(20, 90, (60, len(widths)))
    points = [Point(tuple(map(int, w)), 0.1, float(y)) for w, y in zip(table, problem.exact(table), strict=True)]
    surface = fit_surface(problem.network, points, 0)
    fresh = generator.integers(30, 90, (40, len(widths)))
    assert surface(fresh) == pytest.approx(problem.exact(fresh), rel=0.02)


def test_a_sampled_vector_search_finds_the_exact_optimum():
    asked = {"baseline": BASELINES["bottleneck"], "space": {"mode": "vector"}}
    sampled = {**asked, "estimator": {"method": "monte_carlo", "relative_error": 0.03}}
    result = run(SearchSpec.model_validate_json(json.dumps(sampled)))
    truth = build_problem(SearchSpec.model_validate_json(json.dumps(asked)))
    exact = truth.solve([result.primal.widths, (10, 10)], truth.exact)
    assert exact.primal_variance[0] <= 1.03 * exact.primal_variance[1]
    assert result.primal.variance == pytest.approx(exact.variance[0] / result.primal.multiplicity, rel=0.06)
    assert all(len(set(point.widths)) == 1 for point in result.alpha.points)
    assert result.samples > sum(point.samples for point in result.alpha.points)
