"""A description's graph is the module: the same names and outputs, alone and regrouped; what it cannot hold is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collegium.search.describe.describe import describe
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_chains import searched
from collegium.search.networks.families.network_module import GraphNetwork as Described
from collegium.search.networks.families.network_module import regroup_branches
from collegium.search.networks.graph import operations
from collegium.search.parse import parse_spec
from collegium.search.regroup.grouped import IN_TRAINING, OF_BATCH, OPERATIONS, GraphNetwork
from collegium.search.regroup.regroup import regroup

Made = Callable[[str], tuple[nn.Module, Tensor]]
NAMES = [
    "resnet", "resnext", "vit", "transformer", "u-net", "densenet", "mobilenet", "vgg", "convnext", "mixer", "audio",
    "mlp", "pointnet", "shared", "volume",
]  # fmt: skip


def rebuilt(baseline: NetworkBaseline) -> GraphNetwork:
    """Built from JSON alone, as a service receives it."""
    posted = json.loads(json.dumps(baseline.model_dump(mode="json")))
    network = build_network(parse_spec(NetworkBaseline, posted))
    return GraphNetwork(**network.arguments(network.baseline, network.multiplicity))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_rebuilt_network_computes_what_the_module_does(made: Made, name: str, training: bool):
    model, batch = made(name)
    baseline = describe(model.train(training), batch[:1] if not training else batch[:2])
    assert baseline.no_graph is None
    network = rebuilt(baseline)
    assert list(network.state_dict()) == list(model.state_dict())
    network.load_state_dict(model.state_dict())
    assert torch.equal(network.eval()(batch), model.eval()(batch))
    for one, two in zip(network.parameters(), model.parameters(), strict=True):
        assert one.shape == two.shape  # tied ones once in both


def groupings(baseline: NetworkBaseline) -> list[tuple[str, list[int], int]]:
    """Of every branch that is searched whole, one member more, of widths that are not alike."""
    return [
        (branch.name, [4 * (place + 1) for place in range(len(branch.widths) - 2)], branch.multiplicity + 1)
        for branch in baseline.branches
        for piece in searched(branch)
        if piece == branch
    ]


@pytest.mark.parametrize("name", ["resnet", "resnext", "u-net", "vgg", "mixer"])
def test_a_regrouped_graph_is_the_regrouped_module(made: Made, name: str):
    model, batch = made(name)
    baseline = describe(model, batch[:1])
    given = groupings(baseline)
    assert given
    network = build_network(baseline)
    assert isinstance(network, Described)
    grouped = regroup_branches(network, given)
    own = GraphNetwork(**grouped.arguments_of(grouped.stages))
    expected = regroup(model, {branch: (m, widths) for branch, widths, m in given}, baseline=baseline)
    assert {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    assert grouped.count_stages("parameters", grouped.stages) == sum(p.numel() for p in own.parameters())
    for key, value in expected.named_parameters():
        drawn = own.get_parameter(key).detach()
        if value.numel() > 100 and value.dim() > 1:  # the deviation of so many numbers is known to 1/√(2n)
            assert abs(float(drawn.std() / value.detach().std()) - 1) < 5 * value.numel() ** -0.5, key
    own.load_state_dict(expected.state_dict())
    assert torch.equal(own.eval()(batch), expected.eval()(batch))


def test_the_rebuilt_network_is_regrouped_as_any_module(made: Made):
    model, batch = made("resnet")
    baseline = describe(model, batch[:1])
    given = {branch: (m, widths) for branch, widths, m in groupings(baseline)}
    ours, theirs = (regroup(each, given, baseline=baseline, seed=3) for each in (rebuilt(baseline), model))
    assert [value.shape for value in ours.parameters()] == [value.shape for value in theirs.parameters()]
    output = ours.train()(batch)
    output.square().sum().backward()
    assert all(value.grad is not None for value in ours.parameters())


def test_laws_are_those_of_the_module():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    nn.init.normal_(model[2].weight, 0, 0.3)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(model[2].bias)  # pyright: ignore[reportArgumentType]
    graph = describe(model, torch.zeros(1, 64)).graph
    assert graph is not None
    first, second, _ = (layer.model_dump() for layer in graph.layers)
    assert first["weight"] == {"kind": "uniform", "value": pytest.approx(1 / (3 * 64) ** 0.5)}
    # of 10 000 numbers the deviation is known to 0.7 %
    assert second["weight"] == {"kind": "normal", "value": pytest.approx(0.3, rel=0.035)}
    assert second["bias"] == {"kind": "constant", "value": 0.0}


def test_on_meta_laws_are_those_of_pytorchs_layers():
    with torch.device("meta"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.BatchNorm1d(50), nn.GELU(), nn.Linear(50, 10))
    graph = describe(model, torch.zeros(1, 1, 8, 8, device="meta")).graph
    assert graph is not None
    linear, norm = (layer.model_dump() for layer in graph.layers[:2])
    assert linear["weight"] == {"kind": "uniform", "value": pytest.approx((3 * 64) ** -0.5)}
    assert norm["weight"] == {"kind": "constant", "value": 1.0}


class Drops(nn.Module):
    """A random number for each sample, as stochastic depth has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) * torch.bernoulli(torch.full((x.shape[0], 1), 0.5))


class Code(nn.Module):
    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.layer, self.code = nn.Linear(8, 8), forward

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Drops(), "'bernoulli' in the model (test_graph.py:"),
        (nn.LSTM(8, 8, batch_first=True), "it gives 3 tensors"),
        (Code(lambda m, x: m.layer(x) - x.mean()), "it is taken over the batch as well"),
        (Code(lambda m, x: m.layer(x).cumprod(1)), "'cumprod' in the model (test_graph.py:"),
        (Code(lambda m, x: (m.layer(x), m.layer(2 * x))), "it gives 2 tensors"),
        (Code(lambda m, x: m.layer(x) / x.shape[0]), "its numbers depend on the size of the batch"),
        (Code(lambda m, x: m.layer(x)[:1]), "the axis"),
        (Code(lambda m, x: torch.cat([m.layer(x), x])), "batch"),
        (Code(lambda m, x: m.layer(x) if x.sum() > 0 else x), "torch.export stops at"),
    ],
)
def test_what_stops_the_graph_is_said(model: nn.Module, reason: str):
    baseline = describe(model, torch.randn(2, 3, 8) if isinstance(model, nn.LSTM) else torch.randn(2, 8))
    assert baseline.graph is None
    assert baseline.no_graph is not None
    assert reason in baseline.no_graph
    assert baseline.no_graph in str(baseline)


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        (lambda m, x: m.layer(x).view(-1, 2, 4).chunk(2, 2)[1].reshape(x.shape[0], 4), "parts"),
        (lambda m, x: torch.stack([m.layer(x), x], 1).select(1, 1) + 2 - 3 * x, "a stack"),
        (lambda m, x: 1 - m.layer(x).clamp(min=-0.5, max=0.5) / 2, "numbers"),
        (lambda m, x: torch.nn.functional.glu(m.layer(x)).squeeze().pow(2).unsqueeze(-1), "a gate"),
        (lambda m, x: torch.roll(m.layer(x), 2, -1).split([3, 5], 1)[1], "a roll"),
        (lambda m, x: m.layer(x).sub_(0.1).mul_(x).relu_() + x, "in place"),
        (lambda m, x: nn.functional.pad(m.layer(x)[:, None], (1, 2), "reflect").amax(-1), "padding"),
    ],
)
def test_code_between_layers_is_followed(code: Any, reads: str):
    torch.manual_seed(1)
    model, batch = Code(code), torch.randn(4, 8)
    baseline = describe(model, batch[:2])
    assert baseline.no_graph is None, reads
    network = rebuilt(baseline)
    network.load_state_dict(model.state_dict(), strict=False)  # a buffer that nothing reads
    torch.testing.assert_close(network(batch), model(batch))


@pytest.mark.parametrize("part", [lambda y: y[:, ::2], lambda y: y.T.narrow(0, 0, 2), lambda y: y.view(-1)])
def test_what_is_written_into_a_part_of_a_tensor_is_not_followed(part: Any):
    def code(module: Any, x: Tensor) -> Tensor:
        y = module.layer(x)
        part(y).mul_(3.0)
        return y

    model = Code(code)
    baseline = describe(model, torch.randn(2, 8))
    assert baseline.graph is None
    assert "writes into a part" in str(baseline.no_graph)


def test_every_operation_that_is_checked_is_computed():
    computed = {*OPERATIONS, *IN_TRAINING, *OF_BATCH}
    assert computed == set(operations.OPERATIONS)


def test_the_file_of_the_rebuilt_network_needs_torch_alone():
    source = Path(__import__("collegium.search.regroup.grouped", fromlist=["grouped"]).__file__).read_text()
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"__future__", "collections", "math", "torch", "typing"}


def test_dropout_and_norms_follow_the_mode(made: Made):
    model, batch = made("resnet")
    network = rebuilt(describe(model.eval(), batch[:1]))
    before = network.state_dict()["1.running_mean"].clone()
    network.train()(batch)
    assert not torch.equal(network.state_dict()["1.running_mean"], before)
    drop = rebuilt(describe(nn.Sequential(nn.Linear(8, 50), nn.Dropout(0.5)), torch.zeros(1, 8))).train()
    assert bool((drop(torch.ones(4, 8)) == 0).any())
    assert not bool((drop.eval()(torch.ones(4, 8)) == 0).any())


class Heads(nn.Module):
    """PyTorch's attention with its dropout, by one operator or, for its weights, written out."""

    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True), weights
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=self.weights)[0].mean(1))


@pytest.mark.parametrize("weights", [False, True])
def test_the_dropout_of_attention_is_there_in_either_mode(weights: bool):
    torch.manual_seed(0)
    model, x = Heads(weights), torch.randn(3, 5, 8)
    graphs = [describe(each, x[:1]).graph for each in (model.train(), model.eval())]
    assert graphs[0] == graphs[1]
    network = rebuilt(describe(model, x[:1]))
    network.load_state_dict(model.state_dict())
    assert torch.equal(network.eval()(x), model(x))
    model.train(), network.train()
    for seed in range(3):
        torch.manual_seed(seed)
        expected = model(x)
        torch.manual_seed(seed)
        assert torch.equal(network(x), expected)


def test_describing_leaves_the_module_as_it_was(made: Made):
    model = made("resnet")[0].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    describe(model, torch.randn(2, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
