"""Confidence of n* under the estimate's error, and n* under other inputs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from collegium.search.engine import run
from collegium.search.optimize.problem import build_problem
from collegium.search.optimize.uncertainty import by_correlation, confidence
from collegium.search.optimize.variances import stage_log_ratios
from collegium.search.spec import PresetBaseline, SearchSpec


@pytest.fixture(scope="module")
def problem():
    return build_problem(SearchSpec(baseline=PresetBaseline(preset="resnet50")))


@pytest.fixture(scope="module")
def solved(problem):
    return problem.solve(problem.members, problem.exact)


def redrawn(solved, error, draws=2000):
    noise = np.random.default_rng(0).standard_normal((draws, len(solved.widths), 1))
    return solved.variances.log_ratios * (1 + error * noise)


def test_an_exact_curve_leaves_the_optimum_certain(solved):
    sure = confidence(solved, None, 0.025)
    assert (sure.frequency, sure.draws) == (1, 0)
    assert sure.low == sure.high == sure.wins[0].width == 10
    assert confidence(solved, redrawn(solved, 0.0), 0.025).frequency == 1


def test_a_larger_error_makes_the_optimum_less_certain(solved):
    found = [confidence(solved, redrawn(solved, error), 0.025) for error in (0.0005, 0.005, 0.05)]
    frequencies = [each.frequency for each in found]
    assert frequencies == sorted(frequencies, reverse=True)
    assert frequencies[0] > 0.7
    assert found[-1].high - found[-1].low > found[0].high - found[0].low
    for each in found:
        assert sum(win.frequency for win in each.wins) <= 1 + 1e-9
        assert each.wins[0].frequency == max(win.frequency for win in each.wins)
        assert each.within_tolerance >= each.frequency


def test_an_infeasible_budget_is_judged_by_the_dual():
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset="resnet50"), budget=1000))
    solved = problem.solve(problem.members, problem.exact)
    found = confidence(solved, redrawn(solved, 0.001), 0.025)
    assert found.wins[0].width in (9, 10, 11)


def test_without_an_optimum_there_is_no_confidence(problem):
    assert confidence(problem.solve([], problem.exact), None, 0.025) is None


@pytest.mark.parametrize(
    ("preset", "found"),
    [
        ("resnext29-1x128d", {0.0: (5, 80.7), 0.5: (7, 55.7), 0.8: (9, 41.9), 0.9: (9, 41.9), 0.95: (10, 37.1)}),
        ("resnet50", {0.0: (5, 25.8), 0.5: (7, 17.8), 0.8: (9, 13.4), 0.9: (9, 13.4), 1.0: (10, 11.9)}),
    ],
)
def test_the_optimum_moves_with_the_correlation_as_known(preset, found):
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset=preset)))
    at = {correlation: problem.at_correlation(correlation).exact for correlation in found}
    rows = by_correlation(
        lambda c: problem.constraints(at[c]),
        problem.members,
        lambda c: stage_log_ratios(at[c], np.array(problem.members), problem.scales),
        tuple(found),
    )
    assert len(rows) == len(found)
    for row in rows:
        width, multiplicity = found[row.correlation]
        assert row.width == width
        assert row.primal_multiplicity_real == pytest.approx(multiplicity, abs=0.06)


LIMITS = [
    {},
    {"max_parameters": 18_000_000},
    {"max_parameters": 12_000_000},
    {"max_parameters": 6_000_000},
    {"max_parameters": 1000},
    {"max_flops": 3_000_000_000},
    {"max_parameters": 15_000_000, "max_flops": 2_500_000_000},
    {"budget": 15_000_000},
    {"budget": 1000},
    {"efficiency": "flops", "max_flops": 2_000_000_000},
    {"space": {"max_multiplicity": 4}},
    {"space": {"max_multiplicity": 4}, "max_parameters": 18_000_000},
    {"space": {"multiple_of": 8, "min_width": 24}},
    {"space": {"stages": "own"}, "max_parameters": 18_000_000},
    {"estimator": {"method": "given", "alpha": 4.0}},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("correlation", [0.5, 0.95])
def test_the_row_of_the_searchs_own_correlation_is_its_answer(limits, correlation):
    """Rows where the best at a real m had no primal or no dual within the limits were once left out."""
    asked = {
        "baseline": {"preset": "resnet50"},
        "estimator": {"method": "exact"},
        "inputs": {"correlation": correlation},
    }
    result = run(SearchSpec.model_validate_json(json.dumps(asked | limits)))
    if not result.correlations:
        assert result.variance_from == "alpha"
        return
    assert {0.8, 0.85, 0.9, 0.95, 0.98, 1.0} <= {row.correlation for row in result.correlations}
    (own,) = (row for row in result.correlations if row.correlation == correlation)
    tied = "space" in limits and limits["space"].get("stages") == "own"
    primal, dual = (result.tied_primal, result.tied_dual) if tied else (result.primal, result.dual)
    for answer, widths, multiplicity in (
        (primal, own.widths, own.primal_multiplicity),
        (dual, own.dual_widths, own.dual_multiplicity),
    ):
        assert (answer and answer.widths, answer and answer.multiplicity) == (widths, multiplicity)
    assert own.dual_efficiency == (dual and dual.efficiency)
