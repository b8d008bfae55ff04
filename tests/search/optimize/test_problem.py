"""A specification made concrete: what can be known without sampling, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from collegium.search.errors import InvalidSpec
from collegium.search.optimize.problem import build_problem
from collegium.search.spec import SearchSpec


def problem(**asked):
    return build_problem(SearchSpec.model_validate_json(json.dumps(asked)))


def test_the_method_decides_where_the_curve_comes_from():
    preset = {"preset": "resnet50"}
    assert problem(baseline=preset).log_ratios.source == "closed_form"
    assert problem(baseline=preset, estimator={"method": "given", "alpha": 2}).log_ratios.source == "alpha"
    assert problem(baseline=preset, estimator={"method": "monte_carlo"}).log_ratios is None
    assert problem(baseline=preset, estimator={"entry": "pooled"}).log_ratios is None
    assert problem(baseline=preset, inputs={"pair": {"cosine": 0.3}}).log_ratios is None


@pytest.mark.parametrize("asked", [{"entry": "pooled"}, {}])
def test_exact_is_refused_where_there_is_none(asked):
    inputs = {} if asked else {"pair": {"cosine": 0.3}}
    with pytest.raises(InvalidSpec, match="no closed form") as refused:
        problem(baseline={"preset": "resnet50"}, estimator={"method": "exact", **asked}, inputs=inputs)
    assert refused.value.path == ("estimator", "method")


def test_the_budget_is_in_the_measure_asked_for():
    preset = {"preset": "resnet50"}
    assert problem(baseline=preset).budget == 25_557_032
    assert problem(baseline=preset, budget=7).budget == 7
    flops = problem(baseline=preset, efficiency="flops")
    assert flops.budget == flops.network.count("flops", (64, 64), 1)


def test_the_baseline_variance_is_divided_by_its_members():
    one = problem(baseline={"preset": "resnext29-1x64d"})
    eight = problem(baseline={"preset": "resnext29-8x64d"})
    single = one.constraints(one.exact).baseline_variance
    assert eight.constraints(eight.exact).baseline_variance == pytest.approx(single / 8)


def test_inputs_of_another_correlation():
    asked = problem(baseline={"preset": "resnet50"}, inputs={"gram": np.eye(9).tolist()})
    white = problem(baseline={"preset": "resnet50"}, inputs={"correlation": 0.0})
    members = np.array([[4, 4], [10, 10]])
    assert asked.exact(members) == pytest.approx(white.exact(members))
    assert asked.at_correlation(0.95).exact(members) == pytest.approx(
        problem(baseline={"preset": "resnet50"}).exact(members)
    )


def test_images_stand_in_for_the_named_data():
    images = np.random.default_rng(0).standard_normal((10, 12, 12))
    found = build_problem(
        SearchSpec.model_validate_json('{"baseline": {"preset": "resnet50"}, "inputs": {"data": "mine"}}'), images
    )
    assert np.trace(found.inputs.gram.matrix) == pytest.approx(18)
    constant = np.ones((10, 12, 12))
    with pytest.raises(InvalidSpec) as refused:
        build_problem(
            SearchSpec.model_validate_json('{"baseline": {"preset": "resnet50"}, "inputs": {"data": "x"}}'), constant
        )
    assert refused.value.path == ("inputs", "data")


def test_images_give_each_group_of_the_first_layer_its_own_gram_matrix():
    baseline = {
        "family": "block",
        "input": {"channels": 2, "height": 4, "width": 4},
        "layers": [
            {"type": "conv", "out": 2, "groups": 2},
            {"type": "relu"},
            {"type": "conv", "out": "n", "kernel": 3},
            {"type": "relu"},
            {"type": "conv", "out": 1},
        ],
        "widths": {"n": 8},
    }
    rng = np.random.default_rng(0)
    images = np.stack([rng.standard_normal((50, 4, 4)), rng.standard_normal((50, 1, 1)) * np.ones((4, 4))], axis=1)
    spec = SearchSpec.model_validate_json(json.dumps({"baseline": baseline, "inputs": {"data": "mine"}}))
    found = build_problem(spec, images)
    assert found.inputs.gram.matrix.shape == (2, 9, 9)
    assert not found.inputs.assumes_equal_groups(found.network.chain)
    assumed = problem(baseline=baseline)
    assert assumed.inputs.assumes_equal_groups(assumed.network.chain)
