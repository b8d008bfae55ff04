"""What is described of random modules is true: counts, and that the branches have members with the counts predicted."""

from __future__ import annotations

import inspect
import math
import random
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from collegium.search.describe.describe import describe
from collegium.search.describe.trace import tensors_in
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_chains import member_widths, width_grains
from collegium.search.networks.families.network_graph import member_cost
from collegium.search.regroup.grouped import GroupedLinear
from collegium.search.regroup.regroup import regroup

Given = tuple[Tensor, ...]
Random = Callable[[int], tuple[nn.Module, Given, list[str]]]
Members = dict[str, tuple[int, list[int]]]
#: Together they draw every kind of block and layer, and whatever code reads an inner map, that the first 120 do.
SEEDS = [
    0, 1, 2, 4, 5, 6, 8, 9, 10, 15, 16, 18, 19, 22, 24, 26, 28, 31, 33, 39, 41, 44, 48, 59, 62, 63, 70, 71, 74, 76, 78,
    79, 90, 91, 102, 105,
]  # fmt: skip


def counted(model: nn.Module, given: Given) -> int:
    """Multiply–accumulates of a batch, by torch, and of grouped layers whose members read one number each."""
    counter, missing = FlopCounterMode(display=False), [0]

    def count(module: Any, args: Given, result: Tensor) -> None:
        if module.weight.shape[2] == 1:
            missing[0] += module.weight.numel() * math.prod(result.shape[:-1])

    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, GroupedLinear)]
    state, fast = (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.backends.mha.get_fastpath_enabled(),
    )
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            model(*given)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.load_state_dict(state)
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() // 2 + missing[0]


def grouping(branch: Branch, draw: random.Random) -> tuple[int, list[int]]:
    return draw.randint(1, 3), [draw.randint(1, 3) * grain for grain in width_grains(branch)]


def predicted(baseline: NetworkBaseline, members: Members, measure: Any) -> int:
    found = getattr(baseline, measure)
    for branch in baseline.branches:
        if branch.name in members:
            m, widths = members[branch.name]
            now = m * member_cost(branch, widths, measure)
            found += branch.count * (now - branch.multiplicity * member_cost(branch, member_widths(branch), measure))
    return found


def is_regrouped(branch: Branch, model: nn.Module) -> bool:
    """Whether its layers are modules: weights that code reads by themselves are described, and not regrouped."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return branch.splittable and all(path in modules for paths in branch.paths for path in paths)


def check(model: nn.Module, given: Given, seed: int) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [each.shape for each in tensors_in(model(*given))]
        model.load_state_dict(before)
        flops = counted(model, given)
    baseline = describe(model, given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert baseline.parameters == sum(parameter.numel() for parameter in model.parameters())
    for measure in ("parameters", "flops"):
        assert sum(each.count * getattr(each, measure) for each in baseline.branches) == getattr(baseline, measure)
    assert all(branch.splittable or branch.why for branch in baseline.branches)
    assert "its graph is not" not in str(baseline.no_graph), baseline.no_graph
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    if not recurrent:
        assert baseline.flops * len(given[0]) == flops
    draw = random.Random(seed)
    members = {branch.name: grouping(branch, draw) for branch in baseline.branches if is_regrouped(branch, model)}
    if members:
        check_regrouped(model, given, baseline, members, expected, recurrent)


def check_regrouped(
    model: nn.Module, given: Given, baseline: NetworkBaseline, members: Members, expected: Any, recurrent: bool
) -> None:
    made = regroup(model, members, baseline=baseline)
    assert sum(parameter.numel() for parameter in made.parameters()) == predicted(baseline, members, "parameters")
    batch = len(given[0])
    if not recurrent:
        assert counted(made, given) == batch * predicted(baseline, members, "flops")
    reached = trained(model, given, expected)
    trained(made, given, expected)
    for branch in baseline.branches:
        for path in [path for paths in branch.paths for path in paths] if branch.name in members else ():
            for name, parameter in made.get_submodule(path).named_parameters():
                if f"{path}.{name}" in reached:
                    assert parameter.grad is not None, f"{path}.{name}"
                    assert bool(parameter.grad.isfinite().all()), f"{path}.{name}"


def trained(model: nn.Module, given: Given, expected: Any) -> set[str]:
    """One step back from the outputs, which have the shapes expected; the parameters that it has reached."""
    outputs = list(tensors_in(model(*given)))
    assert [each.shape for each in outputs] == expected
    torch.stack([each.float().square().sum() for each in outputs if each.requires_grad]).sum().backward()
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.grad is not None}


def drawn(seeds: Iterable[int], random_module: Random) -> set[Any]:
    found: set[Any] = set()
    for seed in seeds:
        model, given, kinds = random_module(seed)
        found |= {*kinds, *(type(module).__name__ for module in model.modules())}
        functions = [module.function for module in model.modules() if hasattr(module, "function")]
        codes = [inspect.getclosurevars(each).nonlocals.get("code") for each in functions if inspect.isfunction(each)]
        found |= {("code", code) for code in codes}
        found |= {("inputs", len(given)), ("axes", given[0].dim()), ("training", model.training)}
    return found


def test_every_kind_is_drawn(random_module: Random):
    assert drawn(SEEDS, random_module) == drawn(range(120), random_module)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_random_code_is_described_as_it_is(seed: int, random_module: Random):
    check(*random_module(seed)[:2], seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[3:])
def test_more_modules_of_random_code(seed: int, random_module: Random):
    check(*random_module(seed)[:2], seed)
