"""The band around n*, and the member that hardware likes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.optimize.near_optimal import grain, near_optimal
from collegium.search.optimize.problem import build_problem
from collegium.search.spec import PresetBaseline, SearchSpec, SpaceSpec


def solved_of(preset, **space):
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset=preset), space=SpaceSpec(**space)))
    return problem.solve(problem.members, problem.exact)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(tuple))
def test_the_grain_divides_every_width(widths):
    size = grain(widths)
    assert size <= 32
    assert all(width % size == 0 for width in widths)
    assert size == 32 or any(width % (2 * size) for width in widths)


@pytest.mark.parametrize(
    ("preset", "low", "high", "recommended"),
    [("resnet50", 7, 15, 8), ("resnext29-1x128d", 7, 14, 8), ("mlp-mnist-6x500", 31, 64, 32)],
)
def test_known_networks_have_the_known_band_and_recommendation(preset, low, high, recommended):
    band = near_optimal(solved_of(preset), 0.025)
    assert (band.min_width, band.max_width) == (low, high)
    assert band.recommended.width == recommended
    assert f"multiple of {grain(band.recommended.widths)}" in band.recommended.reason
    assert 0 <= band.recommended.loss <= 0.025
    assert band.recommended.primal.widths == band.recommended.widths == band.recommended.dual.widths


@pytest.fixture(scope="module")
def resnet50():
    return solved_of("resnet50")


@given(tolerance=st.floats(1e-4, 1))
def test_the_band_holds_exactly_what_the_tolerance_allows(resnet50, tolerance):
    solved = resnet50
    band = near_optimal(solved, tolerance)
    inside = {widths for widths, value in zip(solved.widths, solved.objective, strict=True) if value <= 1 + tolerance}
    assert set(band.members) == inside
    assert solved.widths[solved.optimum] in inside
    assert band.recommended.widths in inside


def test_the_band_has_multiples_alone_where_those_are_asked_for():
    band = near_optimal(solved_of("resnext29-1x226d", multiple_of=6), 0.05)
    assert all(width % 6 == 0 for member in band.members for width in member)


def test_without_an_optimum_there_is_no_band():
    solved = solved_of("resnet50", min_width=3, max_width=5, multiple_of=8)
    assert solved.widths == ()
    assert near_optimal(solved, 0.1) is None
    assert np.isnan(solved.objective).all()
