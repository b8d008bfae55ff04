"""The closed form and a short Monte Carlo estimate."""

from __future__ import annotations

import pytest

from collegium.search.estimate.verification import SAMPLES, apart, spot_check
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
    assert all(point.samples == SAMPLES for point in found.points)
    assert all(point.standard_error < 0.04 * point.exact for point in found.points)

    class Wrong(type(problem)):
        @property
        def exact(self):
            return problem.at_correlation(correlation / 2).exact

    wrong = spot_check(Wrong(problem.spec, problem.network, problem.inputs), [(10, 10)], estimation, discard)
    assert not wrong.agrees
    assert wrong.largest > 4


def test_mlps_of_uneven_widths_agree_with_the_closed_form():
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=30, hidden=(40, 20, 30))))
    estimation = Estimation(0.01, 2, compute_here("cpu"))
    found = spot_check(problem, [(40, 20, 30), (9, 31, 14), (22, 8, 8)], estimation, discard)
    assert found.agrees
    assert len(found.points) == 3


def test_the_distance_in_standard_errors_is_signed_and_finite():
    assert apart(1.0, 1.3, 0.1) == pytest.approx(3)
    assert apart(1.0, 0.8, 0.1) == pytest.approx(-2)
    assert apart(1.0, 1.0, 0.0) == 0
    assert apart(1.0, 2.0, 0.0) > 1e100
