"""What is off is said in a sentence, with a remedy."""

from __future__ import annotations

import json

import pytest

from collegium.search.engine import run
from collegium.search.outcomes.judge import ORDER
from collegium.search.spec import SearchSpec

EXACT = {"method": "exact"}
MLP = {"family": "mlp", "inputs": 20, "hidden": [60, 60, 60]}


def outcome(**asked):
    return run(SearchSpec.model_validate_json(json.dumps({"estimator": EXACT, **asked})))


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"baseline": MLP}, "found"),
        ({"baseline": MLP, "budget": 12}, "infeasible_budget"),
        ({"baseline": MLP, "space": {"min_width": 9, "max_width": 10, "multiple_of": 8}}, "infeasible_space"),
        ({"baseline": MLP, "space": {"max_width": 4, "max_multiplicity": 2}}, "infeasible_space"),
        ({"baseline": {"preset": "resnet18"}}, "nothing_to_gain"),
        ({"baseline": MLP, "estimator": {"method": "given", "alpha": 9}}, "poor_fit"),
        ({"baseline": MLP, "space": {"min_width": 50}}, "edge_of_space"),
        ({"baseline": MLP, "space": {"max_width": 4}}, "edge_of_space"),
        ({"baseline": {**MLP, "hidden": [3, 3]}}, "baseline_is_optimal"),
        # a baseline whose variance is beyond all measure
        (
            {"baseline": {**MLP, "hidden": [1] * 64}, "estimator": {"method": "given", "alpha": 1000.0}},
            "unbounded_variance",
        ),
        ({"baseline": {**MLP, "hidden": [3] * 64}}, "unbounded_variance"),
        ({"baseline": {**MLP, "hidden": [40] * 40}, "space": {"max_width": 1}}, "infeasible_space"),
    ],
)
def test_each_search_ends_in_the_expected_outcome_with_a_remedy(asked, kind):
    result = outcome(**asked)
    assert result.outcome.kind == kind
    assert result.outcome.message.rstrip(".")
    if kind not in ("found", "baseline_is_optimal"):
        assert result.outcome.remedy.endswith(".")


def test_the_remedy_of_a_budget_is_enough():
    result = outcome(baseline=MLP, budget=12)
    least = int("".join(filter(str.isdigit, result.outcome.remedy)))
    assert outcome(baseline=MLP, budget=least).primal is not None
    assert result.dual is not None
    assert result.near_optimal is not None


@pytest.mark.parametrize("limit", ["max_parameters", "max_flops"])
def test_where_nothing_fits_the_least_that_does_comes_first(limit):
    """That no member reaches the baseline's variance once came first, with wider members as a remedy."""
    result = outcome(baseline={"preset": "resnet50"}, **{limit: 1000})
    assert result.outcome.kind == "infeasible_budget"
    assert f"{limit} of 1\u202f000 " in result.outcome.message
    assert "members" not in result.outcome.remedy  # there are none narrower than 1
    assert "wider" not in " ".join(note.remedy or "" for note in result.notes)
    least = int("".join(filter(str.isdigit, result.outcome.remedy)))
    found = outcome(baseline={"preset": "resnet50"}, **{limit: least})
    assert found.primal is not None
    assert getattr(found.primal, limit.removeprefix("max_")) == least


def test_members_beyond_what_is_considered_are_not_said_to_cost_too_much():
    """The cheapest of those that vary little enough was once named as the space's cheapest."""
    deep = {**MLP, "hidden": [10] * 40}
    result = outcome(baseline=deep, budget=2_000)
    assert result.outcome.kind == "infeasible_budget"
    assert "whose ln r is at most 20 (width 8 and wider)" in result.outcome.message
    assert outcome(baseline=deep, budget=2_000, space={"widths": [1]}).outcome.kind == "infeasible_space"
    assert "of the space fits" in outcome(baseline=MLP, budget=12).outcome.message


def test_a_baseline_that_is_too_deep_is_named_where_wider_members_are_allowed():
    """Once a budget that the baseline itself meets was said to be too small for every member."""
    result = outcome(baseline={**MLP, "hidden": [3] * 40}, space={"max_width": 30})
    assert result.primal is None
    assert result.outcome.kind == "unbounded_variance"
    assert "edge_of_space" not in [note.kind for note in result.notes]
    generous = outcome(baseline={**MLP, "hidden": [3] * 40}, space={"max_width": 30}, budget=100_000)
    assert generous.primal.multiplicity > 1


def test_narrower_members_that_were_not_sampled_are_not_said_to_cost_too_much():
    sampled = {"method": "monte_carlo", "samples": 2_000}
    result = outcome(baseline={**MLP, "hidden": [30, 30]}, budget=60, estimator=sampled)
    assert result.primal is None
    assert "whose variance is known" in result.outcome.message
    assert "space.widths" in result.outcome.remedy


@pytest.mark.parametrize(("grams", "said"), [(0, "The 2 groups"), (1, "The 2 groups"), (2, "At other correlations")])
def test_what_is_assumed_of_groups_is_said(grams, said):
    """With a matrix for each group the optimum at other correlations still assumes equal ones, once in silence."""
    layers = [{"type": "conv", "out": 4, "groups": 2}, {"type": "relu"}, {"type": "conv", "out": "n", "kernel": 3}]
    layers += [{"type": "relu"}, {"type": "conv", "out": 1}]
    baseline = {"family": "block", "input": {"channels": 4, "height": 3, "width": 3}, "layers": layers}
    eye = [[2.0 * (p == q) for q in range(9)] for p in range(9)]
    given = [None, eye, [eye, [[2.0] * 9] * 9]][grams]
    inputs = {} if given is None else {"gram": given}
    result = outcome(baseline={**baseline, "widths": {"n": 8}}, inputs=inputs)
    (note,) = [note for note in (result.outcome, *result.notes) if note.kind == "equal_groups"]
    assert note.message.startswith(said)


def test_several_things_off_are_all_told_the_worst_first():
    result = outcome(baseline={"preset": "resnet18"}, budget=12)
    kinds = [result.outcome.kind, *(note.kind for note in result.notes)]
    assert kinds[:2] == ["infeasible_budget", "nothing_to_gain"]
    assert len(set(ORDER)) == len(ORDER)


def test_a_rough_line_is_a_note_when_the_curve_does_not_rest_on_it():
    result = outcome(baseline={"preset": "resnext29-1x226d"})
    assert result.outcome.kind == "found"
    assert [note.kind for note in result.notes] == ["poor_fit"]
    assert "slope" in result.notes[0].message
    assert outcome(baseline={"preset": "mlp-mnist-6x500"}).notes == ()
