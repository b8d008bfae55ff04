"""A described network is measured whole and timed like one of a family: the same network gives the same numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.workload import Workload
from collegium.search.networks.build import build_network
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.kernel import NetworkKernel
from collegium.search.whole_network.measure import measure_networks
from collegium.search.whole_network.spec import NetworkKernelSpec


def mlp(widths: list[int], gain: float = 2.0) -> nn.Sequential:
    """Without biases, and with weights N(0, 2/fan_in), 1/fan_in in the last layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(layer.weight, 0, (gain / inputs) ** 0.5)
        layers += [layer, nn.ReLU()]
    nn.init.normal_(layers[-2].weight, 0, widths[-2] ** -0.5)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(*layers[:-1])


def test_its_kernel_varies_as_that_of_the_same_network_of_a_family():
    torch.manual_seed(0)
    described = build_network(describe(mlp([64, 40, 40, 40, 10]), torch.zeros(1, 64)))
    known = build_network(MlpBaseline(family="mlp", inputs=64, hidden=(40, 40, 40), outputs=10))
    spec = NetworkKernelSpec(parameterization="ntk", images=2, inputs=2, relative_error=0.08, max_seconds=60)
    found = [
        measure_networks([Candidate("baseline", each, each.baseline, 1), Candidate("five", each, (8, 8, 8), 5)], spec)
        for each in (described, known)
    ]
    for ours, theirs in zip(found[0].networks, found[1].networks, strict=True):
        assert ours.parameters == theirs.parameters
        assert ours.standard_error is not None
        assert theirs.standard_error is not None
        errors = (ours.standard_error**2 + theirs.standard_error**2) ** 0.5
        assert abs(ours.relative_variance - theirs.relative_variance) < 4 * errors
        assert ours.mean == pytest.approx(theirs.mean, rel=0.15)


class Dropping(nn.Module):
    """Dropout of every kind that a graph has, and a batch norm."""

    def __init__(self, rate: float, width: int) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, width, num_layers=2, dropout=rate, batch_first=True)
        self.attention = nn.MultiheadAttention(width, 2, dropout=rate, batch_first=True)
        self.maps = nn.Sequential(nn.Dropout1d(rate), nn.BatchNorm1d(5), nn.Dropout(rate))
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cell(x)[0]
        return self.head(self.maps(self.attention(x, x, x, need_weights=False)[0]).sum(1))


@pytest.mark.parametrize("width", [4, 64])
def test_nothing_is_dropped_where_its_kernel_is_measured(width: int):
    grams = []
    for rate in (0.0, 0.5):
        torch.manual_seed(0)
        network = build_network(describe(Dropping(rate, width).eval(), torch.zeros(1, 5, 4)))
        candidate = Candidate("baseline", network, network.baseline, network.multiplicity)
        batch = torch.randn(3, 5, 4).numpy()
        grams.append(NetworkKernel(candidate, NetworkKernelSpec(images=3, inputs=1), batch, "cpu").draw(5, [0]))
    assert grams[0].min() > 0
    assert (grams[0] == grams[1]).all()


def test_a_network_with_dropout_is_mapped_over_its_draws_too():
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)]
    network = build_network(describe(nn.Sequential(*layers), torch.zeros(1, 6)))
    candidate = Candidate("baseline", network, network.baseline, network.multiplicity)
    assert candidate.at_once("cpu") > 1
    kernel = NetworkKernel(candidate, NetworkKernelSpec(images=2, inputs=1), torch.ones(2, 6).numpy(), "cpu")
    grams = kernel.draw(5, [0, 1])
    assert grams[1] == pytest.approx(kernel.draw(5, [1])[0], rel=1e-5)
    assert grams[0, 0, 0, 0] != pytest.approx(grams[1, 0, 0, 0], rel=1e-3)


def test_a_search_of_it_is_verified_and_timed():
    torch.manual_seed(0)
    baseline = describe(mlp([16, 24, 24, 10]), torch.zeros(1, 16)).model_dump(mode="json")
    estimator = {"relative_error": 0.2}
    verified = find_ensemble(
        {"baseline": baseline, "estimator": estimator, "verify": "network", "network": {"relative_error": 0.4}}
    )
    assert verified.network is not None
    rows = {row.name: row for row in verified.network.networks}
    assert rows["primal"].ratio is not None
    assert verified.primal is not None
    assert rows["primal"].parameters == verified.primal.parameters
    timed = find_ensemble({"baseline": baseline, "estimator": estimator, "workload": {"batch_size": 4}})
    assert timed.primal is not None
    assert timed.primal.latency_ms is not None
    assert timed.primal.latency_ms > 0


def test_memory_is_that_of_its_weights_and_of_the_largest_step():
    network = build_network(describe(mlp([16, 24, 20, 10]), torch.zeros(1, 16)))
    stages = network.stage_groupings(network.baseline, 1)
    weights = 16 * 24 + 24 * 20 + 20 * 10
    assert memory_bytes(network, stages, Workload(batch_size=8)) == 4 * (weights + 8 * (24 + 24))
    kept = 16 + 24 + 24 + 20 + 20 + 10
    training = memory_bytes(network, stages, Workload(mode="training", batch_size=8))
    assert training >= 4 * (2 * weights + 8 * kept)  # weights, momentum, and every map


def test_tied_weights_are_held_once():
    model = mlp([16, 24, 24, 24, 10])
    model[2].weight = model[4].weight  # pyright: ignore[reportAttributeAccessIssue]
    network = build_network(describe(model, torch.zeros(1, 16)))
    parts = network.footprints(network.stage_groupings(network.baseline, 1))
    assert sum(part.parameters for part in parts) == 16 * 24 + 24 * 24 + 24 * 10


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"verify": "network"}, "verify"),
        ({"efficiency": "latency"}, "efficiency"),
        ({"workload": {"batch_size": 2}}, "workload"),
        ({"max_memory_bytes": 10**9}, "max_memory_bytes"),
    ],
)
def test_without_a_graph_it_is_refused_by_field(fields: dict[str, Any], path: str):
    baseline = describe(mlp([16, 24, 24, 10]), torch.zeros(1, 16))
    bare = baseline.model_copy(update={"graph": None, "no_graph": "'cumsum' in head"}).model_dump(mode="json")
    with pytest.raises(InvalidSpec, match="'cumsum' in head") as refused:
        find_ensemble({"baseline": bare, **fields})
    assert refused.value.path == (path,)
