"""A result of every kind is drawn: its panels, what they show, and equal files for equal results."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from functools import cache

import pytest

from collegium.search.engine import run
from collegium.search.plot import figure, plot
from collegium.search.spec import SearchSpec

EXACT = {"method": "exact"}
MLP = {"family": "mlp", "inputs": 20, "hidden": [60, 60, 60]}
ASKED = {
    "correlations": {"baseline": {"preset": "resnet50"}, "estimator": EXACT},
    "sampled": {"baseline": MLP, "estimator": {"method": "monte_carlo", "samples": 500}},
    "exact": {"baseline": MLP, "estimator": EXACT},
    "vector": {"baseline": MLP, "estimator": EXACT, "space": {"mode": "vector"}},
    "listed": {"baseline": MLP, "estimator": EXACT, "space": {"widths": [9, [8, 9, 10]]}},
    "given": {"baseline": {"preset": "resnet50"}, "estimator": {"method": "given", "alpha": 1.6}},
    "nothing to gain": {"baseline": {"preset": "resnet18"}, "estimator": EXACT},
    "no budget": {"baseline": MLP, "estimator": EXACT, "budget": 3},
    "no space": {"baseline": MLP, "estimator": EXACT, "space": {"min_width": 9, "max_width": 9, "multiple_of": 2}},
}


@cache
def answer(kind):
    return run(SearchSpec.model_validate_json(json.dumps(ASKED[kind])))


LAST_PANEL = {
    "correlations": "n* against the inputs",
    "sampled": "n* under the estimate's error",
    "exact": "what another width costs (the estimate is exact)",
    "vector": "what another width costs (the estimate is exact)",
}
FRONTS = {"memory": ("parameters", "memory"), "latency": ("latency", "memory")}


@pytest.mark.parametrize("cost", FRONTS)
def test_fronts_of_cost_are_two_more_panels(cost, plain_bench):
    asked = {"baseline": MLP, "estimator": EXACT, "efficiency": cost}
    result = run(SearchSpec.model_validate_json(json.dumps(asked)), bench=plain_bench)
    assert ElementTree.fromstring(plot(result)).tag.endswith("}svg")
    fronts = {axes.get_title(): axes for axes in figure(result).axes if axes.get_title().startswith("variance against")}
    assert [title.split()[2] for title in fronts] == list(FRONTS[cost])
    for axes in fronts.values():
        labels = axes.get_legend_handles_labels()[1]
        assert f"primal {result.primal.label}" in labels
        assert "baseline" in labels


def test_stages_of_their_own_are_marked_on_the_fronts(plain_bench):
    baseline = {"family": "resnext", "layout": "cifar", "depth": 11, "base_width": 32}
    asked = {"baseline": baseline, "estimator": EXACT, "efficiency": "latency", "space": {"stages": "own"}}
    result = run(SearchSpec.model_validate_json(json.dumps(asked)), bench=plain_bench)
    assert not result.primal.uniform
    fronts = [axes for axes in figure(result).axes if axes.get_title().startswith("variance against")]
    marked = {label: line for axes in fronts for line in axes.lines if (label := line.get_label())}
    point = marked[f"primal {result.primal.label}"]
    assert point.get_ydata()[0] == pytest.approx(result.primal.relative_variance)


PANELS = ("primal: variance at the budget", "dual: efficiency at the baseline's variance", "α fit")


@pytest.mark.parametrize("kind", ASKED)
def test_every_kind_of_result_is_drawn_as_four_panels(kind):
    result = answer(kind)
    drawing = ElementTree.fromstring(plot(result))
    assert drawing.tag.endswith("}svg")
    panels = {axes.get_title(): axes for axes in figure(result).axes}
    assert set(PANELS) <= set(panels)
    assert LAST_PANEL.get(kind, "what another width costs (the estimate is exact)") in panels
    assert panels["α fit"].get_ylabel() == "ln r"


@pytest.mark.parametrize("kind", ["correlations", "exact", "listed"])
def test_curves_go_through_the_rows_of_the_result(kind):
    result = answer(kind)
    primal, dual = figure(result).axes[:2]
    rows = sorted(result.curve, key=lambda row: row.widths[0])
    for axes, value in ((primal, "primal_variance"), (dual, "dual_efficiency_real")):
        drawn = [row for row in rows if getattr(row, value) is not None]
        assert axes.lines[0].get_xdata() == pytest.approx([row.widths[0] for row in drawn])
        assert axes.lines[0].get_ydata() == pytest.approx([getattr(row, value) for row in drawn])


def test_the_optimum_and_the_baseline_are_marked():
    result = answer("correlations")
    primal, dual = figure(result).axes[:2]
    labels = {line.get_label(): line for line in primal.lines}
    assert labels["baseline"].get_ydata()[0] == result.baseline.variance
    assert labels["12×10"].get_xdata() == [10]
    assert any(line.get_label().startswith("11×7, ρ = 1.45") for line in dual.lines)
    correlations = next(axes for axes in figure(result).axes if axes.get_title() == "n* against the inputs")
    assert correlations.lines[0].get_ydata() == pytest.approx([row.widths[0] for row in result.correlations])


@pytest.mark.parametrize("limit", [18_000_000, 12_000_000, 1000])
def test_correlations_at_which_nothing_is_allowed_are_not_drawn(limit):
    asked = {"baseline": {"preset": "resnet50"}, "estimator": EXACT, "max_parameters": limit}
    result = run(SearchSpec.model_validate_json(json.dumps(asked)))
    panels = {axes.get_title(): axes for axes in figure(result).axes}
    drawn = panels["n* against the inputs"].lines[0].get_ydata()
    assert len(drawn) == sum(row.widths is not None for row in result.correlations)


def test_without_an_ensemble_no_curve_is_drawn():
    primal, dual = figure(answer("no space")).axes[:2]
    assert len(primal.lines[0].get_xdata()) == len(dual.lines[0].get_xdata()) == 0


def test_the_alpha_fit_has_every_point_and_the_line():
    result = answer("sampled")
    fit = next(axes for axes in figure(result).axes if axes.get_title() == "α fit")
    shown = sorted(x for container in fit.containers for x in container.lines[0].get_xdata())
    assert shown == pytest.approx(sorted(point.inverse_fan_in_sum for point in result.alpha.points))
    line = next(line for line in fit.lines if line.get_label() == f"α = {result.alpha.value:.3g}")
    assert line.get_ydata() == pytest.approx(result.alpha.value * line.get_xdata())


def test_equal_results_give_equal_files():
    result = answer("correlations")
    assert plot(result) == plot(result)
    png = plot(result, "png")
    assert png.startswith(b"\x89PNG")
    assert png == plot(result, "png")
