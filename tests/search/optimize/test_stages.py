"""Every stage its own m and n: the published ρ are surpassed, limits are kept, and brute force finds nothing better."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.networks.network import StageGrouping
from collegium.search.optimize.candidates import stage_members
from collegium.search.optimize.problem import build_problem
from collegium.search.optimize.stages import StageProblem
from collegium.search.spec import EstimatorSpec, PresetBaseline, SearchSpec, SpaceSpec

SMALL = ResNextBaseline(family="resnext", layout="cifar", blocks=(1, 2), base_width=12)


def search(baseline, *, space=None, **asked):
    given = PresetBaseline(preset=baseline) if isinstance(baseline, str) else baseline
    space = SpaceSpec(stages="own", **(space or {}))
    return SearchSpec(baseline=given, estimator=EstimatorSpec(method="exact"), space=space, **asked)


def problem_of(baseline, **asked):
    problem = build_problem(search(baseline, **asked))
    return StageProblem(problem.network, problem.constraints(problem.exact), problem.spec.space, problem.exact)


@pytest.mark.parametrize(
    ("preset", "dual", "efficiency", "tied"),
    [
        ("resnet50", [(11, 7), (10, 14), (20, 14), (17, 31)], 1.649, 1.449),
        ("resnet101", [(11, 7), (10, 14), (20, 14), (17, 31)], 1.720, 1.498),
        ("resnext29-1x128d", [(19, 8), (20, 14), (26, 21)], 2.636, 2.301),
    ],
)
def test_the_dual_of_own_stages_saves_more_than_one_m(preset, dual, efficiency, tied):
    result = run(search(preset))
    assert [(stage.multiplicity, stage.width) for stage in result.dual.stages] == dual
    assert result.dual.efficiency == pytest.approx(efficiency, abs=0.001)
    assert result.tied_dual.efficiency == pytest.approx(tied, abs=0.001)
    assert max(stage.relative_variance for stage in result.dual.stages) <= 1.025
    assert not result.dual.uniform
    assert result.dual.gap == 0
    assert result.dual.label in result.outcome.message
    # the primal keeps each stage's share of the budget, and is smoother than the baseline in each
    assert result.primal.parameters <= 1.025 * result.baseline.parameters
    assert result.primal.relative_variance <= result.tied_primal.relative_variance
    assert result.near_optimal is not None


@settings(max_examples=25)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "budget": st.integers(15_000, 120_000),
            "max_flops": st.integers(3_000_000, 40_000_000),
            "max_parameters": st.integers(15_000, 120_000),
        },
    ),
    st.fixed_dictionaries({}, optional={"multiple_of": st.sampled_from([2, 3]), "max_multiplicity": st.integers(2, 9)}),
)
def test_answers_are_within_their_limits_and_nothing_is_better(limits, space):
    problem = problem_of(SMALL, space=space, **limits)
    network, constraints = problem.network, problem.constraints
    primal, dual = problem.primal(), problem.dual()
    budgets = problem._stage_budgets()
    choices = [list(_every(problem, stage)) for stage in range(2)]
    for found, by_primal in ((primal, True), (dual, False)):
        if found is None:
            continue
        bound = constraints.limits if by_primal else constraints.limits[1:]
        for limit in bound:
            assert network.count_stages(limit.measure, found.stages) <= limit.bound
        assert all(stage.multiplicity <= constraints.most for stage in found.stages)
        assert found.relative == pytest.approx(
            [variance / base for variance, base in zip(found.variances, constraints.baseline_variances, strict=True)]
        )
    if dual is not None:
        assert max(dual.relative) <= 1.025
        cost = network.count_stages("parameters", dual.stages)
        assert cost <= _best(problem, choices, budgets, primal=False) * (1 + 1e-6) / (1 - dual.gap)
    if primal is not None and len(constraints.limits) == 1:
        assert max(primal.relative) <= _best(problem, choices, budgets, primal=True) * (1 + 1e-9)
    if budgets is not None:
        coupled = _smoothest(problem, choices, budgets)
        assert (math.inf if primal is None else max(primal.relative)) <= coupled * (1 + 1e-5)


def _every(problem, stage):
    """Every integer grouping of one stage with at most 60 members: m, widths, relative variance, costs."""
    network = problem.network
    members = stage_members(network, problem.space, problem.constraints.scales[stage])
    if not members:
        return
    single = np.expm1(problem.log_ratios(np.array(members, float)))
    for member, variance in zip(members, single.tolist(), strict=True):
        costs = {measure: network.stage_cost(measure, stage, member) for measure in ("parameters", "flops")}
        for m in range(1, min(60, problem.constraints.most) + 1):
            yield m, member, variance / m / problem.constraints.baseline_variances[stage], costs


def _smoothest(problem, choices, budgets):
    """The least variance of the worst stage of any pair within its shares and the limits; infinite for none."""
    measure, fixed = problem.constraints.budget.measure, problem.network.fixed_cost
    kept = [
        [one for one in every if one[0] * one[3][measure] <= budget]
        for every, budget in zip(choices, budgets, strict=True)
    ]
    if not all(kept):
        return math.inf
    first, second = [np.array([one[2] for one in every]) for every in kept]
    worst = np.maximum(first[:, None], second)
    for limit in problem.constraints.limits[1:]:
        one, other = (np.array([own[0] * own[3][limit.measure] for own in every]) for every in kept)
        worst[fixed(limit.measure) + one[:, None] + other > limit.bound] = math.inf
    return float(worst.min())


def _best(problem, choices, budgets, *, primal):
    """The least parameters of any pair of groupings within the limits, or the least variance of the worst stage."""
    network, constraints = problem.network, problem.constraints
    if primal:
        measure = constraints.budget.measure
        kept = [
            [one for one in every if one[0] * one[3][measure] <= budget]
            for every, budget in zip(choices, budgets, strict=True)
        ]
        return max(min((one[2] for one in every), default=np.inf) for every in kept)
    smooth = [
        [one for one in every if one[2] <= (1.025 if one[0] > 1 else 1 + 1e-12)] for every in choices
    ]  # one member is no ensemble
    # of each width the fewest members with less than the tolerance, as the rule of rounding takes them
    best = np.inf
    for pair in itertools.product(*[_fewest(every) for every in smooth]):
        fits = all(
            network.fixed_cost(limit.measure) + sum(one[0] * one[3][limit.measure] for one in pair) <= limit.bound
            for limit in constraints.limits[1:]
        )
        if fits:
            best = min(best, network.fixed_cost("parameters") + sum(one[0] * one[3]["parameters"] for one in pair))
    return best


def _fewest(every):
    """Of each width the fewest members by the nearest integer within the tolerance."""
    rows = {}
    for one in every:
        real = one[0] * one[2]
        if one[0] >= max(1, round(real)) and (one[1] not in rows or one[0] < rows[one[1]][0]):
            rows[one[1]] = one
    return rows.values()


def test_limits_in_other_measures_couple_the_stages():
    free, bound = problem_of("resnet50").dual(), problem_of("resnet50", max_flops=2_570_000_000)
    network = bound.network
    assert network.count_stages("flops", free.stages) > 2_570_000_000
    assert bound.dual() is None  # what keeps the variance costs more
    primal = bound.primal()
    assert network.count_stages("flops", primal.stages) <= 2_570_000_000
    assert max(primal.relative) == pytest.approx(1.033, abs=0.001)
    assert primal.gap < 1e-5


def test_where_a_share_of_the_budget_buys_no_member_one_m_for_all_is_left():
    baseline = ResNextBaseline(family="resnext", layout="cifar", blocks=(1, 1, 1), base_width=8)
    least = build_problem(search(baseline)).network.count("parameters", (2, 2), 1)
    result = run(search(baseline, budget=least, space={"min_width": 2}))
    assert result.primal == result.tied_primal
    assert (result.primal.widths, result.primal.parameters) == ((2, 2), least)
    far = run(search(baseline, budget=least // 2))
    assert (far.outcome.kind, far.primal, far.tied_primal) == ("infeasible_budget", None, None)


def test_a_network_of_one_stage_is_grouped_as_ever():
    result = run(search("mlp-digits-6x100"))
    assert result.primal.uniform
    assert result.tied_primal is None


def test_widths_of_a_stage_are_multiples_within_the_scaled_range():
    network = build_problem(search("resnet50")).network
    for scale in network.stage_scales:
        members = stage_members(network, SpaceSpec(stages="own", min_width=4, max_width=20, multiple_of=4), scale)
        assert all(4 * scale <= width <= 20 * scale and width % 4 == 0 for member in members for width in member)
    assert (512, 512) in stage_members(network, SpaceSpec(stages="own"), 8)


def test_what_does_not_go_with_own_stages_is_refused():
    with pytest.raises(ValueError, match="own"):
        SpaceSpec(stages="own", mode="vector")
    with pytest.raises(InvalidSpec, match=r"space\.stages"):
        run(
            SearchSpec(
                baseline=PresetBaseline(preset="resnet50"),
                estimator=EstimatorSpec(method="given", alpha=1.6),
                space=SpaceSpec(stages="own"),
            )
        )


def test_a_grouping_prints_as_m_times_n():
    assert str(StageGrouping((7, 7), 11)) == "11×7"
