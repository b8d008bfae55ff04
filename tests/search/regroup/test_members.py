"""What stays of a module that is replaced by several members: its hooks, its names, its code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import collegium
from collegium.search.regroup.members import places_of, regroup_one


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2))


def regrouped(model: nn.Module) -> Any:
    baseline = collegium.describe(mlp(), torch.randn(1, 3))
    (name,) = (branch.name for branch in baseline.branches if branch.splittable)
    return collegium.regroup(model, {name: (2, [3, 4])}, baseline=baseline)


@pytest.mark.parametrize("place", [0, 2, 3, 5])
def test_hooks_of_every_form_are_called_as_they_were(place: int):
    model, calls = mlp(), []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append("before")

    def after(module: nn.Module, args: Any, kwargs: Any, result: Tensor) -> None:
        calls.append("after")

    def always(module: nn.Module, args: Any, result: Any) -> None:
        calls.append("always")

    model[place].register_forward_pre_hook(before, with_kwargs=True)
    model[place].register_forward_hook(after, with_kwargs=True)
    model[place].register_forward_hook(always, always_call=True)
    model[place].register_full_backward_hook(lambda *given: calls.append("backward"))
    made = regrouped(model)
    calls.clear()
    made(torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert calls == ["before", "after", "always", "backward"]
    calls.clear()
    with pytest.raises(RuntimeError):
        made[place](torch.randn(2, 99))
    assert calls == ["before", "always"]


def test_one_member_keeps_its_classes():
    model = mlp()
    regroup_one(model, places_of(model), ["0", "2", "3", "5"], (1, [7, 8]), None)
    assert [type(module) for module in model] == [type(module) for module in mlp()]
    assert model(torch.randn(2, 3)).shape == (2, 2)


class OwnLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class OwnNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


@pytest.mark.parametrize(("place", "made"), [(2, OwnLinear(4, 5)), (3, OwnNorm(5))])
def test_code_that_several_members_would_lose_is_refused(place: int, made: nn.Module):
    model = mlp()
    model[place] = made
    with pytest.raises(ValueError, match=f"{place}: {type(made).__name__} has code of its own, and no grouped form"):
        regroup_one(model, places_of(model), ["0", "2", "3", "5"], (2, [3, 4]), None)


def test_a_forward_that_was_put_into_a_layer_is_code_of_its_own():
    model: Any = mlp()
    own = model[2].forward
    model[2].forward = lambda input: own(input) * 2
    with pytest.raises(ValueError, match="2: Linear has code of its own"):
        regroup_one(model, places_of(model), ["0", "2", "3", "5"], (2, [3, 4]), None)
