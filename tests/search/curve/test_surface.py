"""r − 1 is a non-negative polynomial of the inverse widths: found from few points, and not misled as s(n) is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
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
    widths = [tuple(data.draw(st.integers(int(n), 60)) for n in low)]
    found, truth = surface.outreaching(np.array(widths))[0], problem.exact(np.array(widths))[0]
    widest = surface.sampled.max(axis=0)
    beyond = truth > surface.largest or (np.array(widths) > widest).any()
    assert found == pytest.approx(truth, rel=1e-5) or (np.isinf(found) and beyond)
    assert surface(np.array(widths))[0] in (found, np.inf)


def test_noise_is_averaged_and_the_error_is_known():
    problem, points = setting("mlp", error=0.02)
    surface = fit_surface(problem.network, points, 0)
    members = np.array([(20, 30, 10), (12, 12, 12), (50, 40, 30)])
    surface = surface.outreaching
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
    assert np.isinf(surface(np.array([[1, 50], [50, 1], [500, 500], [60, 4000]]))).all()
    assert np.isinf(surface.outreaching(np.array([[1, 50], [500, 500]]))).all()
    assert np.isfinite(surface(surface.sampled)).all()
    # between them alone: one as narrow in every width, one as wide
    narrow, wide = surface.sampled[0], surface.sampled[0] + 30
    pair = fit_surface(problem.network, [point for point in points if point.widths == tuple(narrow)] * 2, 0)
    assert np.isinf(pair(np.array([wide]))[0])


@given(st.integers(0, 1000), st.floats(0.01, 1.0))
@settings(max_examples=20)
def test_ln_r_falls_with_every_width_whatever_the_noise(seed, error):
    problem, points = setting("mlp", count=12, error=error, seed=seed)
    points = [replace(point, log_ratio=max(point.log_ratio, 0.0)) for point in points]
    surface = fit_surface(problem.network, points, 0)
    generator = np.random.default_rng(seed)
    narrow = generator.integers(4, 50, (50, 3))
    wide = narrow + generator.integers(0, 9, (50, 3))
    draws = surface.redraw(np.concatenate([narrow, wide]), generator, 30)
    assert (draws >= 0).all()
    assert (draws[:, 50:] <= draws[:, :50] + 1e-12).all()


@pytest.mark.parametrize("widths", [[60] * 8])
def test_many_layers_share_their_higher_orders(widths):
    spec = {"baseline": {"family": "mlp", "inputs": 30, "hidden": widths}}
    problem = build_problem(SearchSpec.model_validate_json(json.dumps(spec)))
    generator = np.random.default_rng(0)
    table = generator.integers(20, 90, (60, len(widths)))
    points = [Point(tuple(map(int, w)), 0.1, float(y)) for w, y in zip(table, problem.exact(table), strict=True)]
    surface = fit_surface(problem.network, points, 0)
    fresh = generator.integers(30, 85, (40, len(widths)))
    assert surface.outreaching(fresh) == pytest.approx(problem.exact(fresh), rel=0.02)


@pytest.mark.slow
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
