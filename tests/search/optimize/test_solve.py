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
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.optimize import built
from collegium.search.optimize.limits import ROUNDING_TOLERANCE, Constraints, Limit
from collegium.search.optimize.problem import build_problem
from collegium.search.optimize.solve import ROUNDING_LOSS, solve
from collegium.search.optimize.variances import LARGEST_LOG_RATIO
from collegium.search.reproduce.published import MODELS
from collegium.search.spec import EstimatorSpec, PresetBaseline, SearchSpec


def mlp_constraints(hidden, alpha=3.4, budget=None, limits=(), **more):
    network = build_network(MlpBaseline(family="mlp", inputs=784, hidden=hidden, outputs=1))
    own = network.count("parameters", network.baseline, 1)
    first = Limit("parameters", own, ROUNDING_TOLERANCE) if budget is None else Limit("parameters", budget)
    baseline = math.expm1(alpha * network.inverse_fan_in_sum(network.baseline))
    asked = {"baseline_variances": (baseline,), "limits": (first, *limits)}
    return Constraints(network, "parameters", **{**asked, **more})


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
    assert solved.cost.at(solved.primal_real)[best] == pytest.approx(constraints.budget.most)
    assert solved.variance[dual] / solved.dual_real[dual] == pytest.approx(baseline)


@given(alpha=st.floats(0.5, 8), depth=st.integers(2, 6), width=st.integers(2, 200))
def test_integer_ensembles_keep_their_constraint_within_a_few_percent(alpha, depth, width):
    constraints = mlp_constraints((width,) * depth, alpha)
    assume(math.log1p(constraints.baseline_variance) < LARGEST_LOG_RATIO)
    solved = solve(constraints, *tied(constraints, alpha))
    primal, dual = built.primal(solved), built.dual(solved)
    assert primal.parameters <= 1.025 * constraints.budget.most
    assert dual.variance <= 1.025 * constraints.baseline_variance
    # nothing built is worse than the baseline, which is an answer where nothing is better
    assert primal.variance <= solved.variance[-1] * (1 + 1e-9)
    assert dual.efficiency >= 1


@pytest.mark.parametrize("model", [model for model in MODELS if model.solved], ids=lambda model: model.name)
def test_published_multiplicities(model):
    spec = model.spec.model_copy(update={"cardinality": 1, "base_width": model.baseline})
    given = EstimatorSpec(method="given", alpha=1.6)
    problem = build_problem(SearchSpec(baseline=spec, estimator=given))
    widths = (model.width,) * 2
    solved = problem.solve([widths], GivenAlpha(problem.network, 1.6))
    real = solved.primal_real if model.side == "primal" else solved.dual_real
    assert round(float(real[0])) == model.multiplicity
    integer = solved.primal_integer if model.side == "primal" else solved.dual_integer
    assert integer[0] == model.multiplicity


def test_a_dual_keeps_the_variance_unless_the_nearest_integer_is_asked_for():
    for more, expected in (({"nearest_dual": True}, 7), ({}, 8)):
        constraints = mlp_constraints((50, 50), baseline_variances=(0.1,), **more)
        assert solve(constraints, [(10, 10)], np.array([math.log1p(0.735)])).dual_integer[0] == expected
        assert solve(constraints, [(10, 10)], np.array([math.log1p(0.711)])).dual_integer[0] == 7


@pytest.mark.parametrize("nearest", [True, False])
def test_one_member_is_no_ensemble_unless_it_is_as_smooth_as_the_baseline(nearest):
    constraints = mlp_constraints((50, 50), baseline_variances=(0.1,), nearest_dual=nearest)
    for variance, expected in ((0.1, 1), (0.0999, 1), (0.101, 2), (0.12, 2)):
        assert solve(constraints, [(48, 48)], np.array([math.log1p(variance)])).dual_integer[0] == expected


def test_rounding_that_costs_much_moves_the_member():
    # near 2.3 members fit at n*: two of a wider kind are better than two of n*
    constraints = mlp_constraints((40, 40))
    solved = solve(constraints, *tied(constraints))
    best = np.nanmin(solved.variance / solved.primal_integer)
    assert built.primal(solved).variance <= (1 + ROUNDING_LOSS) * best


def test_m_is_rounded_up_where_rounding_down_costs_much_and_the_tolerance_allows_it():
    problem = build_problem(
        SearchSpec(baseline=ResNextBaseline(family="resnext", layout="cifar", blocks=(1,), base_width=8))
    )
    solved = problem.solve(problem.members, problem.exact)
    answer = built.primal(solved)
    assert (answer.multiplicity, answer.widths) == (2, (5, 5))
    assert answer.relative_variance == pytest.approx(0.888, abs=0.001)
    assert 1 < answer.budget_share <= 1.025


def test_the_nearest_integer_is_kept_where_rounding_costs_little():
    # 38 × 10 would be within the tolerance as well: 2.2 % above the baseline's parameters, for 2.6 % less variance
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset="resnext29-1x128d")))
    solved = problem.solve(problem.members, problem.exact)
    assert (built.primal(solved).multiplicity, built.primal(solved).width) == (37, 10)
    assert solved.primal_largest[[member[0] for member in solved.widths].index(10)] == 38


@given(budget=st.integers(2_000, 3_000_000))
def test_a_budget_that_was_given_is_hard_and_spent_best(budget):
    constraints = mlp_constraints((500,) * 5, budget=budget)
    solved = solve(constraints, *tied(constraints))
    answer = built.primal(solved)
    assert answer.parameters <= budget
    assert not constraints.rounds
    variances = [
        solved.variance[index] / m
        for index, widths in enumerate(solved.widths)
        if (m := (budget // constraints.network.count("parameters", widths, 1))) >= 1
    ]
    assert answer.variance == pytest.approx(min(variances), rel=1e-9)


def test_every_limit_binds_and_only_the_others_bind_the_dual():
    free = mlp_constraints((500,) * 5)
    other = Limit("flops", free.baseline_count / 4, field="max_flops")
    constraints = mlp_constraints((500,) * 5, limits=(other,))
    solved = solve(constraints, *tied(constraints))
    assert built.primal(solved).flops <= other.most
    assert built.dual(solved) is None
    assert built.dual(solve(free, *tied(free))).flops > other.most
    assert not constraints.baseline_fits(constraints.limits)
    assert constraints.baseline_fits(constraints.limits[:1])


def test_a_baseline_that_is_not_in_the_space_is_no_answer():
    constraints = mlp_constraints((40, 40), baseline_allowed=False)
    solved = solve(constraints, [(2, 2)], np.array([3.0]))
    assert built.primal(solved).widths == (2, 2)
    assert built.primal(solved).relative_variance > 1


def test_the_worst_stage_decides():
    residual = build_network(PresetBaseline(preset="resnet50"))
    own = residual.count("parameters", residual.baseline, 1)
    limits = (Limit("parameters", own, ROUNDING_TOLERANCE),)
    constraints = Constraints(residual, "parameters", limits, (0.2, 0.1), scales=(1, 2))
    solved = solve(constraints, [(10, 10), (12, 12)], np.log1p([[1.0, 0.8], [1.0, 0.2]]))
    assert solved.dual_real.tolist() == pytest.approx([8, 5])
    answer = built.dual(solved)
    assert answer.widths == (12, 12)
    assert [stage.widths for stage in answer.stages] == [(12, 12), (24, 24)]
    assert [stage.relative_variance for stage in answer.stages] == pytest.approx([1.0, 0.4])
    # a member that is not known in some stage is left out
    assert solve(constraints, [(10, 10)], np.array([[1.0, np.inf]])).widths == ()


def test_an_infeasible_budget_leaves_the_dual():
    constraints = mlp_constraints((500,) * 5, budget=500)
    solved = solve(constraints, *tied(constraints))
    assert solved.primal_optimum is None
    assert built.primal(solved) is None
    assert built.dual(solved).efficiency > 2
    assert solved.objective[solved.dual_optimum] == 1
    row = built.row(solved, 10)
    assert row.primal_multiplicity is None
    assert row.primal_variance is None
    assert row.dual_multiplicity > 0


def test_a_budget_below_what_no_grouping_changes_is_infeasible():
    network = build_network(ResNextBaseline(family="resnext", layout="imagenet", depth=50, classes=21841))
    fixed, _ = network.affine("parameters", (4, 4))
    for budget in (1, fixed - 500_000, fixed):
        constraints = Constraints(network, "parameters", (Limit("parameters", budget),), (0.1,))
        solved = solve(constraints, [(4, 4), (10, 10)], np.array([1.0, 0.5]))
        assert np.isnan(solved.primal_real).all()
        assert built.primal(solved) is None


def test_max_multiplicity_caps_the_primal_and_excludes_from_the_dual():
    constraints = mlp_constraints((500,) * 5, max_multiplicity=5)
    solved = solve(constraints, *tied(constraints))
    assert built.primal(solved).multiplicity <= 5
    assert built.dual(solved).multiplicity <= 5
    narrow = built.row(solved, 20)
    assert narrow.dual_multiplicity is None
    assert narrow.primal_multiplicity == 5


def test_hopeless_members_are_left_out():
    constraints = mlp_constraints((500,) * 5)
    solved = solve(constraints, [(1,) * 5, (50,) * 5], np.array([LARGEST_LOG_RATIO + 1, 0.3]))
    assert solved.widths == ((50,) * 5,)


def test_flops_count_the_whole_network():
    network = build_network(PresetBaseline(preset="resnet50"))
    budget = network.count("flops", network.baseline, 1)
    constraints = Constraints(network, "flops", (Limit("flops", budget, ROUNDING_TOLERANCE),), (10.0,))
    answer = built.primal(solve(constraints, [(10, 10)], np.array([0.5])))
    assert answer.flops == network.count("flops", (10, 10), answer.multiplicity)
    assert answer.efficiency == pytest.approx(budget / answer.flops)
    assert answer.parameters == network.count("parameters", (10, 10), answer.multiplicity)
