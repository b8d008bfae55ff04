"""What a description says, checked against the module itself: counts by PyTorch, free widths by changing them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from collegium.search.describe.describe import describe
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.parse import parse_spec


def run(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return first_tensor(next(iter(output.values() if isinstance(output, dict) else output)))


def multiply_accumulates(model: nn.Module, example: Any) -> int:
    """As ``torch.utils.flop_counter`` counts them while the module itself runs without memory.

    It does not count kernels that compute attention at once, so these are not used.
    """
    counter = FlopCounterMode(display=False)
    state, fast = model.state_dict(), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            run(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    if not any(value.is_meta for value in state.values()):
        model.load_state_dict(state)
    return counter.get_total_flops() // 2


def checked(model: nn.Module, example: Any, **options: Any) -> NetworkBaseline:
    """The description, whose every number has been compared with the module."""
    baseline = describe(model, example, **options)
    assert baseline.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert baseline.flops == multiply_accumulates(model, example) // batch_of(example)
    for measure in ("parameters", "flops"):
        assert sum(each.count * getattr(each, measure) for each in baseline.branches) == getattr(baseline, measure)
    assert parse_spec(NetworkBaseline, baseline.model_dump(mode="json")) == baseline
    assert all(branch.splittable or branch.why for branch in baseline.branches)
    assert str(baseline)
    assert "<table>" in baseline._repr_html_()
    return baseline


def batch_of(example: Any) -> int:
    while not isinstance(example, Tensor):
        example = next(iter(example.values() if isinstance(example, dict) else example))
    return example.shape[0]


def assert_widths_are_free(model: nn.Module, example: Any, baseline: NetworkBaseline) -> None:
    """Other inner widths, put into the module's own layers, give a module that runs and has the counts expected."""
    changed = copy.deepcopy(model)
    expected = baseline.parameters
    for branch in baseline.branches:
        if branch.splittable:
            assert len(branch.paths) == branch.count
            widths = other_widths(branch)
            for paths in branch.paths:
                before = sum(own_parameters(changed, path) for path in paths)
                rebuild(changed, branch, paths, widths)
                expected += sum(own_parameters(changed, path) for path in paths) - before
    assert sum(parameter.numel() for parameter in changed.parameters()) == expected
    with torch.no_grad():
        assert first_tensor(run(changed, example)).shape == first_tensor(run(model, example)).shape


def other_widths(branch: Branch) -> list[int]:
    """Each free width times two, or by one group of all layers and norms more."""
    widths = list(branch.widths)
    for places in branch.free:
        for place in places:
            widths[place] *= 2
    return widths


def own_parameters(model: nn.Module, path: str) -> int:
    return sum(parameter.numel() for parameter in model.get_submodule(path).parameters())


def rebuild(model: nn.Module, branch: Branch, paths: tuple[str, ...], widths: list[int]) -> None:
    reading = iter(widths)
    width = next(reading)
    layers = [layer for layer in branch.layers if layer.kind in ("conv", "linear", "norm")]
    for layer, path in zip(layers, paths, strict=True):
        old = model.get_submodule(path)
        inputs = width
        if layer.kind != "norm":
            width = next(reading)
        parent, _, name = path.rpartition(".")
        new = resized(old, inputs, width).to(next(model.parameters()).device).train(old.training)
        setattr(model.get_submodule(parent), name, new)


def resized(old: nn.Module, inputs: int, width: int) -> nn.Module:
    match old:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            depthwise = old.groups == old.in_channels > 1
            geometry = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation")}
            return type(old)(
                inputs,
                width,
                groups=inputs if depthwise else old.groups,
                bias=old.bias is not None,
                padding_mode=old.padding_mode,
                **geometry,
            )
        case nn.Linear():
            return nn.Linear(inputs, width, bias=old.bias is not None)
        case nn.LayerNorm():
            return nn.LayerNorm(width, elementwise_affine=old.elementwise_affine)
        case nn.GroupNorm():
            return nn.GroupNorm(old.num_groups, width, affine=old.affine)
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d() | nn.InstanceNorm2d():
            return type(old)(width, affine=old.affine)
    raise TypeError(f"{type(old).__name__} is not known to this test")


@pytest.fixture
def described() -> Callable[..., NetworkBaseline]:
    """``describe``, with every number compared with the module's own, and the free widths changed."""

    def check(model: nn.Module, example: Any, **options: Any) -> NetworkBaseline:
        baseline = checked(model, example, **options)
        if any(branch.splittable for branch in baseline.branches):
            assert_widths_are_free(model, example, baseline)
        return baseline

    return check
