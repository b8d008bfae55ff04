"""The closed form and a short Monte Carlo estimate."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.estimate.agreement import agreement, apart, overall
from collegium.search.estimate.verification import CHECK_SAMPLES, spot_check
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.optimize.problem import build_problem
from collegium.search.progress import discard
from collegium.search.sampling.estimation import Estimation
from collegium.search.sampling.local import compute_here
from collegium.search.spec import InputsSpec, PresetBaseline, SearchSpec


@pytest.mark.parametrize("correlation", [0.3, 0.95])
def test_it_agrees_with_the_truth_and_not_with_an_error(correlation):
    spec = SearchSpec(baseline=PresetBaseline(preset="resnet50"), inputs=InputsSpec(correlation=correlation))
    problem = build_problem(spec)
    estimation = Estimation(0.01, 0, compute_here("cpu"))
    found = spot_check(problem, [(64, 64), (10, 10), (10, 10)], estimation, discard)
    assert found.agrees
    assert [point.width for point in found.points] == [64, 10]
    assert all(8_192 <= point.samples <= CHECK_SAMPLES for point in found.points)
    assert all(4 * point.standard_error <= 0.1 * point.exact for point in found.points)
    assert {point.agreement for point in found.points} == {found.agreement} == {"agree"}

    class Wrong(type(problem)):
        @property
        def exact(self):
            return problem.at_correlation(correlation / 2).exact

    wrong = spot_check(Wrong(problem.spec, problem.network, problem.inputs), [(10, 10)], estimation, discard)
    assert not wrong.agrees
    assert wrong.agreement == "disagree"
    assert wrong.largest > 4


def test_mlps_of_uneven_widths_agree_with_the_closed_form():
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=30, hidden=(40, 20, 30))))
    estimation = Estimation(0.01, 2, compute_here("cpu"))
    found = spot_check(problem, [(40, 20, 30), (9, 31, 14), (22, 8, 8)], estimation, discard)
    assert found.agrees
    assert len(found.points) == 3


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param((4,) * 24, marks=pytest.mark.slow),
        pytest.param((3,) * 64, marks=pytest.mark.slow),
        (2,) * 16,
        (1,) * 3,
    ],
    ids=str,
)
def test_it_cannot_tell_where_the_error_is_large(hidden):
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=9, hidden=hidden)))
    for seed in range(4):
        found = spot_check(problem, [hidden], Estimation(0.01, seed, compute_here("cpu")), discard)
        assert found.agreement == "cannot_tell"
        assert not found.agrees
        (point,) = found.points
        assert point.agreement == "cannot_tell"
        # the error is no larger than ln r of the narrowest network of that depth
        assert point.standard_error is None or point.standard_error <= 1.8 * len(hidden)
        assert point.exact > 2


@given(
    expected=st.floats(1e-3, 30),
    found=st.floats(1e-3, 30),
    error=st.floats(1e-9, 1e30),
    relevant=st.floats(0.01, 0.5),
    saturated=st.booleans(),
)
def test_a_agreement_is_no_more_than_the_error_allows(expected, found, error, relevant, saturated):
    said = agreement(expected, found, error, relevant, saturated=saturated)
    if said == "agree":
        assert abs(found - expected) <= 4 * error <= relevant * expected
    if said == "disagree":
        assert abs(found - expected) > 4 * error
        assert error <= 0.25 * max(expected, found)
    if saturated:
        assert said == "cannot_tell"
    # whatever is found, a deviation of more than the relevant one is never agreed to
    assert not (said == "agree" and abs(found - expected) > relevant * expected)


def test_agreements_without_numbers_and_of_several():
    assert agreement(1.0, math.nan, 0.1, 0.1, saturated=False) == "cannot_tell"
    assert agreement(1.0, 1.0, math.inf, 0.1, saturated=False) == "cannot_tell"
    assert agreement(0.0, 0.0, 0.0, 0.1, saturated=False) == "agree"
    assert overall([]) == "cannot_tell"
    assert overall(["agree", "agree"]) == "agree"
    assert overall(["agree", "cannot_tell"]) == "cannot_tell"
    assert overall(["cannot_tell", "disagree"]) == "disagree"


def test_the_distance_in_standard_errors_is_signed_and_finite():
    assert apart(1.0, 1.3, 0.1) == pytest.approx(3)
    assert apart(1.0, 0.8, 0.1) == pytest.approx(-2)
    assert apart(1.0, 1.0, 0.0) == 0
    assert apart(1.0, 2.0, 0.0) > 1e100
