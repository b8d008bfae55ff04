"""An answer of every kind can be drawn, twice the same."""

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


@pytest.mark.parametrize("kind", ASKED)
def test_every_kind_of_answer(kind):
    ElementTree.fromstring(plot(answer(kind)))


def test_what_the_panels_show():
    result = answer("correlations")
    sheet = figure(result)
    titles = [axes.get_title() for axes in sheet.axes]
    assert any("primal" in title for title in titles)
    assert any("dual" in title for title in titles)
    assert "α fit" in titles
    assert "n* against the inputs" in titles
    primal = sheet.axes[0]
    assert len(primal.lines[0].get_xdata()) == len(result.curve)
    assert plot(result) == plot(result)
    assert plot(result, "png").startswith(b"\x89PNG")
    assert "n* under the estimate's error" in [axes.get_title() for axes in figure(answer("sampled")).axes]
