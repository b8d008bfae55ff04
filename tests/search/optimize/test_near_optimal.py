"""The band around n*, and the member that hardware likes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.optimize import built
from collegium.search.optimize.near_optimal import grain, near_optimal
from collegium.search.optimize.problem import build_problem
from collegium.search.spec import PresetBaseline, SearchSpec, SpaceSpec


def solved_of(preset, **space):
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset=preset), space=SpaceSpec(**space)))
    return problem.solve(problem.members, problem.exact)


def band_of(solved, tolerance):
    return near_optimal(solved, tolerance, built.primal(solved), built.dual(solved))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(tuple))
def test_the_grain_divides_every_width(widths):
    size = grain(widths)
    assert size <= 32
    assert all(width % size == 0 for width in widths)
    assert size == 32 or any(width % (2 * size) for width in widths)


@pytest.mark.parametrize(
    ("preset", "low", "high", "recommended"),
    [("resnet50", 7, 15, 10), ("resnext29-1x128d", 7, 14, 8), ("mlp-mnist-6x500", 31, 64, 32)],
)
def test_known_networks_have_the_known_band_and_recommendation(preset, low, high, recommended):
    band = band_of(solved_of(preset), 0.025)
    assert (band.min_width, band.max_width) == (low, high)
    assert band.recommended.width == recommended
    pick = band.recommended
    assert pick.widths in band.members
    assert f" {grain(pick.widths)}" in pick.reason
    assert pick.loss <= 0.025
    assert pick.primal.widths == pick.widths == pick.dual.widths
    assert pick.primal.relative_variance < 1 < pick.dual.efficiency


@pytest.fixture(scope="module")
def resnet50():
    return solved_of("resnet50")


@given(tolerance=st.floats(1e-4, 1))
def test_the_band_holds_exactly_what_the_tolerance_allows(resnet50, tolerance):
    solved = resnet50
    band = band_of(solved, tolerance)
    inside = {widths for widths, value in zip(solved.widths, solved.objective, strict=True) if value <= 1 + tolerance}
    assert set(band.members) == inside | {built.primal(solved).widths}
    assert solved.widths[solved.optimum] in inside
    assert band.recommended.widths in band.members
    assert band.recommended.primal.variance <= (1 + tolerance) * built.primal(solved).variance * (1 + 1e-9)


def test_the_band_has_multiples_alone_where_those_are_asked_for():
    band = band_of(solved_of("resnext29-1x226d", multiple_of=6), 0.05)
    assert all(width % 6 == 0 for member in band.members for width in member)


def test_without_an_optimum_there_is_no_band():
    solved = solved_of("resnet50", min_width=3, max_width=5, multiple_of=8)
    assert solved.widths == ()
    assert band_of(solved, 0.1) is None
    assert np.isnan(solved.objective).all()


def test_a_recommendation_is_better_than_the_baseline_or_there_is_none():
    # at a tolerance of 100 %, members as noisy as the baseline are near the optimum, and not recommended
    solved = solved_of("resnet50")
    assert band_of(solved, 1.0).recommended.primal.relative_variance < 1
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=3, hidden=(6, 6), outputs=1)))
    solved = problem.solve(problem.members, problem.exact)
    band = band_of(solved, 0.025)
    assert band.recommended.primal == built.primal(solved)
    assert band.recommended.reason.startswith("the primal itself")
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=20, hidden=(3, 3))))
    solved = problem.solve(problem.members, problem.exact)
    assert built.is_baseline(solved, built.primal(solved))
    assert band_of(solved, 0.025).recommended is None
