"""Built ensembles: their own variance against the prediction, right and wrong."""

from __future__ import annotations

import numpy as np
import pytest

from collegium.search.estimate.verification import verify
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.optimize import built
from collegium.search.optimize.problem import build_problem
from collegium.search.progress import discard
from collegium.search.result import SolvedEnsemble
from collegium.search.sampling.estimation import Estimation
from collegium.search.sampling.local import compute_here
from collegium.search.spec import SearchSpec


@pytest.fixture(scope="module")
def setting():
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=64, hidden=(60, 60, 60), outputs=10)))
    solved = problem.solve(problem.members, problem.exact)
    return problem, built.primal(solved), built.dual(solved)


def test_both_sides_are_measured(setting):
    problem, primal, dual = setting
    seen = []
    found = verify(problem, primal, dual, Estimation(0.01, 0, compute_here("cpu")), lambda *now: seen.append(now[0]))
    assert found.agrees
    assert found.agreement == "agree"
    assert primal.multiplicity > 1
    assert found.primal.measured == pytest.approx(primal.variance, rel=0.15)
    assert found.dual.measured == pytest.approx(dual.variance, rel=0.15)
    assert seen == sorted(seen)


def test_a_wrong_prediction_is_caught(setting):
    problem, primal, _ = setting
    wrong = primal.model_copy(update={"variance": primal.variance * 2})
    found = verify(problem, wrong, None, Estimation(0.01, 0, compute_here("cpu")), discard)
    assert not found.agrees
    assert found.agreement == "disagree"
    assert found.dual is None
    assert found.primal.standard_errors_apart < -4


def test_without_ensembles_nothing_is_verified(setting):
    assert verify(setting[0], None, None, Estimation(0.01, 0, compute_here("cpu")), discard) is None


def test_a_heavy_tail_cannot_tell():
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=64, hidden=(4,) * 24)))
    answer = SolvedEnsemble(
        widths=(4,) * 24,
        multiplicity=1,
        multiplicity_real=1.0,
        variance=float(np.expm1(problem.exact(np.array([(4,) * 24]))[0])),
        parameters=1,
        flops=1,
        efficiency=1.0,
    )
    found = verify(problem, answer, None, Estimation(0.01, 0, compute_here("cpu")), discard)
    assert found.agreement == found.primal.agreement == "cannot_tell"
    assert not found.agrees


def test_a_single_member_of_a_heavier_tail_takes_more_samples():
    problem = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=64, hidden=(20,) * 6)))
    solved = problem.solve(problem.members, problem.exact)
    found = verify(problem, built.primal(solved), None, Estimation(0.01, 0, compute_here("cpu")), discard)
    assert found.agreement == "agree"
    assert found.primal.samples > 8_192
    assert 4 * found.primal.standard_error < 0.25 * found.primal.predicted
