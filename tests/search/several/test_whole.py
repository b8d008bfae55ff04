"""Answers of several parts are measured as one network: their limits hold there, and what each part says adds up."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from collegium.search.describe.describe import describe
from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.workload import Workload
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.network import StageGrouping
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec


class TwoParts(nn.Module):
    """A branch of convolutions, and a classifier of linear layers behind a pool."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1)]
        self.body = nn.Sequential(*convolutions)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(nn.Linear(32, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.pool(self.body(x)) + 1).flatten(1))


class Maps(nn.Module):
    """Two branches around skip connections, whose output is a map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.end = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.one = nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 1), nn.ReLU(), nn.Conv2d(12, 8, 1))
        self.two = nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Conv2d(12, 14, 1), nn.ReLU(), nn.Conv2d(14, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        return self.end(x + self.two(x))


@pytest.fixture(scope="module")
def described():
    torch.manual_seed(0)
    return describe(TwoParts(), torch.zeros(1, 3, 4, 4)).model_dump(mode="json")


def find(baseline, bench=None, **asked):
    spec = parse_spec(SearchSpec, {"baseline": baseline, "estimator": {"method": "exact"}} | asked)
    return run(spec, bench=bench)


def rebuilt(baseline, answer):
    """The network of an answer."""
    network = build_network(parse_spec(SearchSpec, {"baseline": baseline}).baseline)
    assert isinstance(network, GraphNetwork)
    return network.together([(one.paths, StageGrouping(one.widths, one.multiplicity)) for one in answer.branches])


def test_the_answers_are_timed_as_one_network(described, bench):
    found = find(described, bench, workload={"batch_size": 2})
    assert len(found.branches) == 2
    for answer in (found.primal, found.dual, found.recommended):
        # on this bench a network takes 2 ns for each of its parameters, and so do times of parts add up
        assert answer.latency_ms == pytest.approx(2e-6 * answer.parameters)
        whole = rebuilt(described, answer)
        assert answer.memory_bytes == memory_bytes(whole, whole.stages, Workload(batch_size=2))
    assert found.costs.rows[0].latency_ms == pytest.approx(2e-6 * described["parameters"])
    assert [check.deviation for check in found.costs.checks] == pytest.approx([0] * len(found.costs.checks), abs=1e-9)
    assert found.costs.checks
    keys = {segment.key for segment in bench.visits}
    assert found.costs.measured >= len(keys)  # some at two numbers of threads


@pytest.mark.parametrize("asked", [{}, {"max_latency_ms": 3.6e-3}, {"max_latency_ms": 7e-3}])
def test_time_is_shared_by_the_parts(described, bench, asked):
    found = find(described, bench, efficiency="latency", **asked)
    most = asked.get("max_latency_ms", 1e-6 * described["parameters"])
    assert found.budget == pytest.approx(most)
    assert found.primal.latency_ms <= most * (1 + 1e-9)
    assert found.primal.budget_share == pytest.approx(found.primal.latency_ms / most)
    assert found.primal.latency_ms > 0.8 * most
    assert found.dual.efficiency == pytest.approx(1e-6 * described["parameters"] / found.dual.latency_ms)
    assert all(branch.result.primal is not None for branch in found.branches)


def test_memory_of_all_parts_together_is_within_its_limit(described):
    network = build_network(parse_spec(SearchSpec, {"baseline": described}).baseline)
    own = memory_bytes(network, network.stage_groupings(network.baseline, 1), Workload())
    found = find(described, efficiency="memory", max_memory_bytes=round(0.8 * own))
    assert found.primal.memory_bytes <= 0.8 * own
    assert found.dual.memory_bytes < own
    assert found.costs.machine is None
    assert found.primal.latency_ms is None


def grouped(segment) -> set[str]:
    """The kinds of layers that have groups in a segment."""
    layers = json.loads(segment.arguments)["graph"]["layers"]
    return {layer["kind"] for layer in layers if layer.get("groups", 1) > 1}


def test_parts_that_together_take_more_than_alone_are_searched_again_with_less(described, make_bench):
    class Crowded(make_bench):
        def seconds(self, segment, workload):
            return super().seconds(segment, workload) * (1.1 if len(grouped(segment)) == 2 else 1)

    found = find(described, Crowded(), efficiency="latency")
    assert found.primal.latency_ms <= found.budget
    assert found.budget == pytest.approx(1e-6 * described["parameters"])
    assert all(branch.result.primal.multiplicity > 1 for branch in found.branches)
    parts = [branch.result.primal.latency_ms for branch in found.branches]
    assert max(parts) < found.budget  # each had to leave some of its share
    assert found.reused == 0


def test_answers_that_take_too_much_however_small_are_dropped_and_said(described, make_bench):
    class Hopeless(make_bench):
        def seconds(self, segment, workload):
            return super().seconds(segment, workload) + (1 if len(grouped(segment)) == 2 else 0)

    found = find(described, Hopeless(), max_latency_ms=1.0, efficiency="latency")
    for answer in (found.primal, found.dual, found.recommended):
        assert answer is None or answer.latency_ms <= 1.0
    said = [one for one in (found.outcome, *found.notes) if one.kind == "infeasible_budget"]
    assert any("together" in one.message or "ensembles considered" in one.message for one in said)


def test_whole_networks_verify_the_joint_answers(described):
    network = {"relative_error": 0.5, "images": 2, "inputs": 1}
    found = find(described, verify="network", network=network)
    rows = {row.name: row for row in found.network.networks}
    assert {"baseline", "primal", "dual"} <= set(rows)
    for name in ("primal", "dual"):
        answer = getattr(found, name)
        assert (rows[name].parameters, rows[name].label) == (answer.parameters, answer.label)
        assert rows[name].ratio is not None
    assert all(branch.result.network is None for branch in found.branches)


def test_of_a_map_the_centre_is_measured():
    torch.manual_seed(0)
    baseline = describe(Maps(), torch.zeros(1, 3, 4, 4)).model_dump(mode="json")
    found = find(baseline, verify="network", network={"relative_error": 0.5, "images": 1, "inputs": 1})
    assert len(found.branches) == 2
    assert "at the centre of its map" in found.network.statement
    assert found.network.network("primal").relative_variance > 0


def test_branches_without_modules_are_refused(described):
    bare = described | {"branches": [one | {"paths": []} for one in described["branches"]]}
    with pytest.raises(InvalidSpec, match="does not name its modules") as refused:
        find(bare, verify="network")
    assert refused.value.path == ("verify",)
