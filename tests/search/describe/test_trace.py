"""What cannot be traced is named with its line, the rest is described, and every count still holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collegium.search.describe.describe import describe
from collegium.search.describe.trace import tensors_in
from collegium.search.errors import NotTraceable
from collegium.search.networks.families.network import NetworkBaseline


def body(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 6))


class Deciding(nn.Module):
    """Its forward pass depends on numbers, and multiplies by a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = body(4), body(5), nn.Linear(2, 2)
        self.own = nn.Parameter(torch.ones(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.sum() > 1e9:
            x = -x
        return self.second(x) @ self.own


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Deciding(), body(3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return self.last(torch.cat([h, h], 1))


def test_the_modules_around_a_decision_are_described(described: Callable[..., NetworkBaseline]):
    baseline = described(Deciding(), torch.randn(2, 6))
    free = [branch for branch in baseline.branches if branch.splittable]
    assert [branch.widths for branch in free] == [(6, 4, 4, 6), (6, 5, 5, 6)]
    assert free[1].paths == (("second.0", "second.2", "second.4"),)
    (gap,) = (branch for branch in baseline.branches if "torch.export stops" in str(branch.why))
    assert "test_trace.py:" in str(gap.why)
    assert "`if x.sum() > 1e9:`" in str(gap.why)
    assert (gap.parameters, gap.flops) == (18, 18)


def test_decisions_further_inside_are_named_and_the_rest_is_described(described: Callable[..., NetworkBaseline]):
    baseline = described(Nested(), torch.randn(2, 6))
    free = [branch.paths[0] for branch in baseline.branches if branch.splittable]
    assert ("inner.first.0", "inner.first.2", "inner.first.4") in free
    assert ("last.0", "last.2", "last.4") in free
    (gap,) = (branch for branch in baseline.branches if "`if x.sum() > 1e9:`" in str(branch.why))
    assert (gap.name, gap.parameters, gap.flops) == ("inner", 18, 18)


def test_a_module_that_is_called_twice_around_a_decision_is_shared(described: Callable[..., NetworkBaseline]):
    class Twice(Deciding):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if x.sum() > 1e9:
                x = -x
            return self.first(x) @ self.own

    baseline = described(Twice(), torch.randn(2, 6))
    assert not any(branch.splittable for branch in baseline.branches)
    assert any("used in several places" in str(branch.why) for branch in baseline.branches)


def test_what_is_not_traced_leaves_no_trace_in_the_module():
    model = nn.Sequential(Deciding(), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    describe(model, torch.randn(3, 6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_where_a_trace_stops_torch_prints_nothing(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    """Of a number that a module reads from its own buffer torch prints whole graphs."""
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2)).train()
    assert describe(model, torch.randn(2, 6)).no_graph is not None
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "")


def test_a_decision_without_numbers_is_refused_with_the_line():
    with torch.device("meta"):
        model = Deciding()
    with pytest.raises(NotTraceable, match=r"if x\.sum"):
        describe(model, torch.empty(1, 6))


def test_a_wrong_example_is_refused_with_the_module():
    with pytest.raises(NotTraceable, match=r"module '0'.*shapes cannot be multiplied"):
        describe(body(3), torch.zeros(1, 5))
    with pytest.raises(NotTraceable, match="forward"):
        describe(body(3), {"y": torch.zeros(1, 6)})


def test_an_error_of_the_users_own_is_reported_as_it_is():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("no such head")

    with pytest.raises(NotTraceable, match=r"test_trace.py:\d+, `raise KeyError.*KeyError: 'no such head'"):
        describe(Broken(), torch.zeros(1, 2))


def test_arguments_in_every_form():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> dict[str, Any]:
            return {"sum": [self.a(x) + scale * self.b(y)]}

    x, y = torch.zeros(2, 3), torch.zeros(2, 4)
    one, named = describe(Sum(), (x, y)), describe(Sum(), {"x": x, "y": y, "scale": 2.0})
    assert one == describe(Sum(), [x, y])
    assert one.model_copy(update={"graph": None}) == named.model_copy(update={"graph": None})
    assert named.graph is not None
    assert [given.name for given in named.graph.inputs] == ["x", "y"]
    assert [node.options["number"] for node in named.graph.nodes if node.op == "multiply_number"] == [2.0]
    assert (one.input, one.outputs, one.flops) == ((3,), 2, 14)


def test_tensors_of_any_container_are_outputs():
    class Cache:
        def __init__(self) -> None:
            self.layers = [{"keys": torch.zeros(1)}, (torch.zeros(2), None)]
            self.itself = self

    assert [tensor.numel() for tensor in tensors_in({"a": Cache(), "b": torch.zeros(3), "c": 4})] == [1, 2, 3]


def test_an_inner_width_in_an_object_of_the_output_is_read(described: Callable[..., NetworkBaseline]):
    class Kept:
        def __init__(self, hidden: Tensor) -> None:
            self.hidden = hidden

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body(4)

        def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
            h = self.body[0](x)
            return self.body[1:](h), Kept(h)

    assert not any(branch.splittable for branch in described(Model(), torch.randn(2, 6)).branches)
