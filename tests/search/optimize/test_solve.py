"""Primal and dual: strong duality, whole-network counts, integers, and the limits of a space."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from collegium.search.curve.source import GivenAlpha
from collegium.search.networks.build import build_network
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.optimize.problem import build_problem
from collegium.search.optimize.solve import LARGEST_LOG_RATIO, Constraints, solve
from collegium.search.reproduce.published import MODELS
from collegium.search.spec import PresetBaseline, SearchSpec


def mlp_constraints(hidden, alpha=3.4, **more):
    network = build_network(MlpBaseline(family="mlp", inputs=784, hidden=hidden, outputs=1))
    budget = network.count("parameters", network.baseline, 1)
    baseline = math.expm1(alpha * network.inverse_fan_in_sum(network.baseline))
    asked = {"measure": "parameters", "budget": budget, "baseline_variance": baseline}
    return Constraints(network, **{**asked, **more})


def tied(constraints, alpha=3.4, widest=None):
    depth = len(constraints.network.baseline)
    widths = [(n,) * depth for n in range(1, (widest or constraints.network.baseline[0]) + 1)]
    return widths, np.array([alpha * constraints.network.inverse_fan_in_sum(member) for member in widths])


@given(alpha=st.floats(0.5, 8), depth=st.integers(2, 8), width=st.integers(8, 300))
def test_strong_duality(alpha, depth, width):
    constraints = mlp_constraints((width,) * depth, alpha)
    baseline = constraints.baseline_variance
    solved = solve(constraints, *tied(constraints, alpha))
    best, dual = solved.primal_optimum, solved.dual_optimum
    assert solved.objective[dual] == pytest.approx(1, rel=1e-9)
    # the dual's efficiency is the primal's gain in variance, and both ensembles meet their constraint
    gain = baseline / solved.primal_variance[best]
    assert constraints.baseline_count / solved.dual_count[dual] == pytest.approx(gain, rel=1e-9)
    assert solved.fixed[best] + solved.primal_real[best] * solved.per_member[best] == pytest.approx(constraints.budget)
    assert solved.variance[dual] / solved.dual_real[dual] == pytest.approx(baseline)


@given(alpha=st.floats(0.5, 8), depth=st.integers(2, 6), width=st.integers(2, 200))
def test_integer_ensembles_keep_their_constraint_within_a_few_percent(alpha, depth, width):
    constraints = mlp_constraints((width,) * depth, alpha)
    assume(math.log1p(constraints.baseline_variance) < LARGEST_LOG_RATIO)
    solved = solve(constraints, *tied(constraints, alpha))
    primal, dual = solved.primal_ensemble(solved.primal), solved.dual_ensemble(solved.dual)
    assert primal.parameters <= 1.025 * constraints.budget
    assert dual.variance <= 1.025 * constraints.baseline_variance or dual.multiplicity == dual.multiplicity_real
    # the baseline is a member with m = 1, so nothing built is worse than it
    assert primal.variance <= solved.variance[-1] * (1 + 1e-9)


@pytest.mark.parametrize("model", [model for model in MODELS if model.solved], ids=lambda model: model.name)
def test_published_multiplicities(model):
    spec = model.spec.model_copy(update={"cardinality": 1, "base_width": model.baseline})
    problem = build_problem(SearchSpec(baseline=spec))
    widths = (model.width,) * 2
    solved = problem.solve([widths], GivenAlpha(problem.network, 1.6))
    real = solved.primal_real if model.side == "primal" else solved.dual_real
    assert round(float(real[0])) == model.multiplicity
    integer = solved.primal_integer if model.side == "primal" else solved.dual_integer
    assert integer[0] == model.multiplicity


def test_a_residual_network_takes_the_nearest_dual_and_an_mlp_keeps_the_variance():
    residual = build_network(PresetBaseline(preset="resnet50"))
    constraints = Constraints(residual, "parameters", 25_557_032, 0.1)
    assert solve(constraints, [(10, 10)], np.array([math.log1p(0.735)])).dual_integer[0] == 7
    constraints = mlp_constraints((50, 50), baseline_variance=0.1)
    assert solve(constraints, [(10, 10)], np.array([math.log1p(0.735)])).dual_integer[0] == 8
    assert solve(constraints, [(10, 10)], np.array([math.log1p(0.711)])).dual_integer[0] == 7


def test_rounding_that_costs_much_moves_the_member():
    # near 2.3 members fit at n*: two of a wider kind are better than two of n*
    constraints = mlp_constraints((40, 40))
    solved = solve(constraints, *tied(constraints))
    built = solved.variance / solved.primal_integer
    assert built[solved.primal] == np.nanmin(built) or built[solved.primal] <= 1.05 * np.nanmin(solved.primal_variance)


def test_an_infeasible_budget_leaves_the_dual():
    constraints = mlp_constraints((500,) * 5, budget=500)
    solved = solve(constraints, *tied(constraints))
    assert solved.primal_optimum is None
    assert solved.primal is None
    assert solved.primal_ensemble(solved.primal) is None
    assert solved.dual_ensemble(solved.dual).efficiency > 2
    assert solved.objective[solved.dual_optimum] == 1
    row = solved.row(10)
    assert row.primal_multiplicity is None
    assert row.primal_variance is None
    assert row.dual_multiplicity > 0


def test_max_multiplicity_caps_the_primal_and_excludes_from_the_dual():
    constraints = mlp_constraints((500,) * 5, max_multiplicity=5)
    solved = solve(constraints, *tied(constraints))
    assert solved.primal_ensemble(solved.primal).multiplicity <= 5
    assert solved.dual_ensemble(solved.dual).multiplicity <= 5
    narrow = solved.row(20)
    assert narrow.dual_multiplicity is None
    assert narrow.primal_multiplicity == 5


def test_hopeless_members_are_left_out():
    constraints = mlp_constraints((500,) * 5)
    solved = solve(constraints, [(1,) * 5, (50,) * 5], np.array([LARGEST_LOG_RATIO + 1, 0.3]))
    assert solved.widths == ((50,) * 5,)


def test_flops_count_the_whole_network():
    network = build_network(PresetBaseline(preset="resnet50"))
    budget = network.count("flops", network.baseline, 1)
    constraints = Constraints(network, "flops", budget, 0.1)
    answer = solve(constraints, [(10, 10)], np.array([0.5])).primal_ensemble(0)
    assert answer.flops == network.count("flops", (10, 10), answer.multiplicity)
    assert answer.efficiency == pytest.approx(budget / answer.flops)
    assert answer.parameters == network.count("parameters", (10, 10), answer.multiplicity)
