"""Widths that a module's own code reads are fixed, with the line that reads them; others stay free."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import collegium
from collegium.search.describe.describe import describe
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_graph import graph_at
from collegium.search.networks.network import StageGrouping


class Net(nn.Module):
    """Three convolutions; ``code`` stands behind the activation of the first one, ``after`` at the end."""

    def __init__(self, code: Callable[..., Tensor], after: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.b, self.c = nn.Conv1d(8, 6, 3, padding=1), nn.Conv1d(6, 4, 1)
        self.code, self.after = code, after
        self.table, self.listed = torch.linspace(0, 1, 16), [8, 6]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.a(x)))
        y = self.c(torch.relu(self.b(self.code(self, h))))
        return y if self.after is None else self.after(self, h, y)


def as_it_is(net: Any, h: Tensor) -> Tensor:
    return h


#: Code between the first and the second layer that reads the width between them.
READING: dict[str, Callable[..., Tensor]] = {
    "reshape to sizes": lambda net, h: h.reshape(h.shape[0], 8, -1),
    "a scale": lambda net, h: h * h.shape[1] ** -0.5,
    "a scale by size()": lambda net, h: h / h.size(1),
    "a scale by numel()": lambda net, h: h * (h.numel() / 160),
    "a scale by len()": lambda net, h: h * len(h[0]),
    "a scale of a tensor": lambda net, h: h * torch.tensor(h.shape[1] ** -0.5),
    "a scale of a new tensor": lambda net, h: h * torch.ones(h.shape[1]).sum(),
    "a scale of a full tensor": lambda net, h: h * torch.full((1,), float(h.shape[1])),
    "a condition": lambda net, h: torch.tanh(h) if h.shape[1] == 8 else torch.sigmoid(h),
    "a threshold": lambda net, h: h if h.shape[1] > 6 else -h,
    "a divisor": lambda net, h: h * (h.shape[1] // 4),
    "num_features": lambda net, h: h * net.norm.num_features,
    "out_channels": lambda net, h: functional.dropout(h, 1 / net.a.out_channels),
    "the weight's shape": lambda net, h: h * net.a.weight.shape[0],
    "the next layer's inputs": lambda net, h: functional.leaky_relu(h, 1 / net.b.in_channels),
    "an entry of a table": lambda net, h: h * net.table[h.shape[1]],
    "an entry of a list": lambda net, h: h * net.listed[h.shape[1] - 8],
    "an assertion": lambda net, h: asserted(h),
    "padding to a width": lambda net, h: functional.pad(h, (0, 0, 0, 8 - h.shape[1])),
    "a norm by hand": lambda net, h: functional.group_norm(h, h.shape[1] // 4),
    "a norm of a width": lambda net, h: functional.layer_norm(h.transpose(1, 2), (8,)).transpose(1, 2),
    "zeros of a width": lambda net, h: h + torch.zeros(h.shape[1], 1),
    "zeros of a known width": lambda net, h: h + torch.zeros(8, 1),
    "the first half": lambda net, h: h[:, : h.shape[1]],
    "chunks": lambda net, h: torch.cat(h.chunk(2, 1), 1),
    "an expansion": lambda net, h: h.expand(-1, 8, -1),
    "flat positions": lambda net, h: h.flatten(1).view(h.shape[0], 8, -1),
}
#: Code at the end that reads the width from the first layer's outputs, which it has kept.
LATER: dict[str, Callable[..., Tensor]] = {
    "a scale": lambda net, h, y: y * h.shape[1] ** -0.5,
    "a sum of ones": lambda net, h, y: y * torch.ones(h.shape[1]).sum(),
    "a reshape": lambda net, h, y: y.repeat(1, 2, 1).reshape(h.shape),
    "another output": lambda net, h, y: (y, torch.zeros(h.shape[1])),  # type: ignore[return-value]
    "the layer's width": lambda net, h, y: y + net.a.out_channels,
    "the number of parameters": lambda net, h, y: y * sum(p.numel() for p in net.parameters()),
    "one call more": lambda net, h, y: torch.neg(y) if h.shape[1] != 8 else y,
}
#: Code that works with any width.
FREE: dict[str, Callable[..., Tensor]] = {
    "nothing": as_it_is,
    "the batch": lambda net, h: h * h.shape[0],
    "the length": lambda net, h: h * h.shape[-1] ** -0.5,
    "axes": lambda net, h: functional.gelu(h) if h.dim() == 3 else h,
    "a flat map": lambda net, h: h.flatten(2),
    "another axis and back": lambda net, h: h.unsqueeze(-1).squeeze(-1).transpose(1, 2).transpose(1, 2),
    "dropout": lambda net, h: functional.dropout1d(h, 0.1),
    "a formatted message": lambda net, h: (str(h.shape), h)[1],
    "a true assertion": lambda net, h: h if h.shape[1] == net.a.out_channels else -h,
}


def asserted(h: Tensor) -> Tensor:
    assert h.shape[1] == 8, "eight channels"
    return h


@pytest.mark.parametrize("name", READING)
def test_a_width_that_code_reads_is_fixed(name: str, described: Callable[..., NetworkBaseline]):
    baseline = described(Net(READING[name]), torch.randn(2, 3, 10))
    assert [branch.widths for branch in baseline.branches if branch.splittable] == []
    first = next(branch for branch in baseline.branches if branch.name == "a")
    assert first.why


@pytest.mark.parametrize("name", LATER)
def test_a_width_that_code_reads_somewhere_else_is_fixed(name: str, described: Callable[..., NetworkBaseline]):
    baseline = described(Net(as_it_is, LATER[name]), torch.randn(2, 3, 10))
    assert [branch.widths for branch in baseline.branches if branch.splittable] == []


@pytest.mark.parametrize("name", FREE)
def test_a_width_that_nothing_reads_is_free(name: str, described: Callable[..., NetworkBaseline]):
    baseline = described(Net(FREE[name]), torch.randn(2, 3, 10))
    assert [branch.widths for branch in baseline.branches if branch.splittable] == [(3, 8, 6, 4)]


def splittable(baseline: NetworkBaseline) -> list[tuple[int, ...]]:
    return [branch.widths for branch in baseline.branches if branch.splittable]


def reasons(baseline: NetworkBaseline) -> str:
    return "\n".join(str(branch.why) for branch in baseline.branches)


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_the_reason_names_the_line_the_layer_and_what_changes():
    found = reasons(describe(Net(READING["a scale"]), torch.randn(2, 3, 10)))
    assert "code reads the width of its outputs: test_widths.py:" in found
    assert '`"a scale": lambda net, h: h * h.shape[1] ** -0.5,`' in found
    assert "'mul' is given 0.3333333333333333 in place of 0.3535533905932738, behind 'norm'" in found
    found = reasons(describe(Net(READING["an assertion"]), torch.randn(2, 3, 10)))
    assert "test_widths.py" in found
    assert "(AssertionError: eight channels), behind 'norm'" in found


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.shape[-1] ** -0.5


def test_a_chain_ends_at_the_one_width_that_is_read_and_the_rest_stays_free(described: Callable[..., NetworkBaseline]):
    layers = list(mlp(3, 4, 5, 6, 7, 8, 9, 2))
    model = nn.Sequential(*layers[:7], Scaled(), *layers[7:])
    baseline = described(model, torch.randn(1, 3))
    assert splittable(baseline) == [(3, 4, 5, 6, 7), (7, 8, 9, 2)]


class Block(nn.Module):
    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 6)
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.b(torch.relu(self.a(x))))
        return x + self.c(torch.mul(h, h.shape[-1]) if self.scaled else h)


def test_of_equal_blocks_those_that_read_their_widths_are_fixed_alone(described: Callable[..., NetworkBaseline]):
    model = nn.Sequential(*(Block(place == 2) for place in range(5)))
    (free,) = (branch for branch in described(model, torch.randn(1, 6)).branches if branch.splittable)
    assert [paths[0] for paths in free.paths] == ["0.a", "1.a", "3.a", "4.a"]


def doubled(module: nn.Module, given: Any, result: Tensor) -> Tensor:
    return result * 2


def test_hooks_that_read_a_width_fix_it(described: Callable[..., NetworkBaseline]):
    model = mlp(3, 4, 5, 2)
    model[2].register_forward_hook(lambda module, given, result: result * result.shape[-1])
    assert splittable(described(model, torch.randn(1, 3))) == []
    model = mlp(3, 4, 5, 2)
    model[2].register_forward_hook(doubled)
    assert splittable(described(model, torch.randn(1, 3))) == [(3, 4, 5, 2)]


class OwnLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class OwnNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(1, -1)).transpose(1, -1)


def test_layers_with_code_of_their_own_that_have_no_grouped_form_are_fixed(described: Callable[..., NetworkBaseline]):
    model = mlp(3, 4, 5, 2)
    model[2] = OwnLinear(4, 5)
    baseline = described(model, torch.randn(1, 3))
    assert splittable(baseline) == []
    assert "it cannot have other members: " in reasons(baseline)
    assert "2: OwnLinear has code of its own, and no grouped form" in reasons(baseline)
    convolutions = [nn.Conv1d(3, 4, 1), OwnNorm(4), nn.ReLU(), nn.Conv1d(4, 5, 1), nn.ReLU(), nn.Conv1d(5, 2, 1)]
    baseline = described(nn.Sequential(*convolutions), torch.randn(1, 3, 4))
    assert "1: OwnNorm has code of its own, and no grouped form" in reasons(baseline)


class OwnConvolution(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return functional.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ScaledConvolution(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.out_channels**-0.5


@pytest.mark.parametrize(("kind", "free"), [(OwnConvolution, [(3, 4, 5, 2)]), (ScaledConvolution, [])])
def test_a_convolution_with_code_of_its_own_keeps_it(kind: Any, free: Any, described: Callable[..., NetworkBaseline]):
    model = nn.Sequential(kind(3, 4, 1), nn.ReLU(), kind(4, 5, 1), nn.ReLU(), nn.Conv1d(5, 2, 1))
    assert splittable(describe(model, torch.randn(1, 3, 4))) == free


class Listed(nn.Module):
    """Calls its layers from a list that is no module."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.layers = mlp(3, 4, 5, 2)
        self.again = self.layers if registered else None
        self.listed: list[Any] = [self.again] if registered else list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.listed:
            x = layer(x)
        return x


def test_layers_that_a_plain_list_holds_are_fixed_and_those_with_two_names_are_not():
    assert splittable(describe(Listed(False), torch.randn(1, 3))) == []
    model = Listed(True)
    baseline = describe(model, torch.randn(1, 3))
    assert splittable(baseline) == [(3, 4, 5, 2)]
    regrouped: Any = collegium.regroup(model, {baseline.branches[0].name: (2, [3, 3])}, baseline=baseline)
    assert regrouped.again[2] is regrouped.layers[2]
    assert baseline.graph is not None
    assert len(baseline.graph.tied) == 6
    grouped = graph_at(baseline, [(baseline.branches[0].paths, StageGrouping((3, 3), 2))])
    assert grouped.parameters == sum(parameter.numel() for parameter in regrouped.parameters())


def test_a_function_that_holds_the_modules_own_layers_is_not_that_of_a_copy():
    layers = mlp(3, 4, 5, 2)
    model = nn.Sequential(nn.Identity(), layers)
    model[1].forward = lambda input: layers[4](layers[3](layers[2](layers[1](layers[0](input)))))
    assert splittable(describe(model, torch.randn(1, 3))) == []


class Deciding(nn.Module):
    """No trace follows it; the code that decides reads a width."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = mlp(6, 4, 5, 6), mlp(6, 3, 7, 6), how

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.sum() > 1e9:
            x = -x
        if self.how == "stops":
            assert self.first[0].out_features == 4
        return self.second(x)


def test_code_that_could_not_be_traced_runs_with_other_widths_too():
    assert splittable(describe(Deciding("free"), torch.randn(1, 6))) == [(6, 4, 5, 6), (6, 3, 7, 6)]
    baseline = describe(Deciding("stops"), torch.randn(1, 6))
    assert splittable(baseline) == [(6, 3, 7, 6)]
    assert "AssertionError" in reasons(baseline)


class Raw(nn.Module):
    """Weights that are no layer's."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5, 4))
        self.w, self.b, self.scaled = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(5)), scaled

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(functional.linear(torch.relu(x @ self.u), self.v, self.b))
        return (h * self.v.shape[0] if self.scaled else h) @ self.w


@pytest.mark.parametrize("scaled", [False, True])
def test_weights_of_no_layer_are_tried_with_other_widths(scaled: bool):
    baseline = describe(Raw(scaled), torch.randn(1, 3))
    assert splittable(baseline) == ([] if scaled else [(3, 4, 5, 2)])
    assert scaled or baseline.no_graph == "'u' is a parameter that code reads, and no layer's"


class Keeping(nn.Module):
    """Keeps what it has computed, counts its calls, and holds what has no copy."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.kept, self.last = mlp(3, 4, 5, 2), [], None
        self.count, self.times, self.held = torch.zeros(()), 0, (each for each in ())

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        self.count += 1
        self.times += 1
        self.last = self.layers(x)
        self.kept.append(self.last)
        return self.last


def test_the_module_is_left_as_it_was():
    model, example = Keeping(), torch.ones(1, 3)
    layers, before = list(model.layers), {name: value.clone() for name, value in model.state_dict().items()}
    assert splittable(describe(model, example)) == [(3, 4, 5, 2)]
    assert (model.kept, model.last, model.times, model.count.item()) == ([], None, 0, 0)
    assert torch.equal(example, torch.ones(1, 3))
    assert all(one is two for one, two in zip(model.layers, layers, strict=True))
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Dropping(nn.Module):
    """Leaves a layer out at random, by numbers of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(3, 4, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y if random.random() < 0.5 else -y


def test_decisions_at_random_are_the_same_in_every_run():
    before = random.getstate()
    for _ in range(4):
        assert splittable(describe(Dropping(), torch.ones(1, 3))) == [(3, 4, 5, 2)]
    random.setstate(before)
