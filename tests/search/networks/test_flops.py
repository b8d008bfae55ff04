"""FLOPs against the multiply–accumulates of the modules themselves, counted layer by layer as they run."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.resnext import LAYOUTS, ResNextBaseline
from collegium.search.networks.family import FAMILIES, FamilyBaseline
from collegium.train.models.ensembles import MemberLinear


def multiply_accumulates(module: nn.Module, *shape: int) -> int:
    """Products that one input of ``shape`` takes: for each output number of a layer, the inputs of its unit."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        fan_in = weight.shape[1] if isinstance(layer, MemberLinear) else weight[0].numel()
        total += output.numel() * fan_in

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | MemberLinear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module.eval()(torch.empty(1, *shape, device="meta"))
    return total


def assert_counts_agree(baseline: FamilyBaseline, shape: tuple[int, ...], widths: tuple[int, ...], members: int):
    network = build_network(baseline)
    path, name = FAMILIES[network.family].module.split(":")
    with torch.device("meta"):
        module = getattr(importlib.import_module(path), name)(**network.arguments(widths, members))
    assert network.count("flops", widths, members) == multiply_accumulates(module, *shape)
    assert network.count("parameters", widths, members) == sum(p.numel() for p in module.parameters())


def residual(layout: str, block: str, blocks: tuple[int, ...], channels: int = 64) -> ResNextBaseline:
    return ResNextBaseline(family="resnext", layout=layout, block=block, blocks=blocks, channels=channels)


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_residual_networks_of_any_stages(data):
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    block = data.draw(st.sampled_from(["bottleneck", "basic"]))
    blocks = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=8)))
    free = 2 if block == "bottleneck" else 1
    widths = tuple(data.draw(st.lists(st.integers(1, 6), min_size=free, max_size=free)))
    channels = data.draw(st.sampled_from([64, 16, 5]))
    # The module's channels are multiples of its groups; blocks with one free layer have no grouped convolution.
    baseline = residual(layout, block, blocks, channels)
    assert_counts_agree(baseline, (3, *2 * (LAYOUTS[layout].size,)), widths, data.draw(st.integers(1, 5)))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_residual_networks_whose_maps_shrink_to_one_position(layout, block):
    widths = (4,) * (2 if block == "bottleneck" else 1)
    assert_counts_agree(residual(layout, block, (1,) * 8), (3, *2 * (LAYOUTS[layout].size,)), widths, 3)


def test_the_layer_before_a_stride_sees_the_odd_map_whole():
    network = build_network(residual("imagenet", "bottleneck", (1, 1, 1, 1, 1)))
    *_, fourth, fifth = network.stages
    assert (fourth.extent, fourth.size, fifth.extent, fifth.size) == (14, 7, 7, 4)
    assert network._block.areas(fifth.extent, fifth.stride) == [49, 16, 16]
    seven = build_network(residual("imagenet", "bottleneck", (1,) * 7))
    assert seven.count("flops", (3, 3), 2) == 1_003_782_656  # 1 006 731 776 with maps taken to double


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_mlps_with_and_without_biases(data):
    hidden = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    baseline = MlpBaseline(family="mlp", inputs=6, hidden=hidden, outputs=3, bias=data.draw(st.booleans()))
    assert_counts_agree(baseline, (6,), hidden, data.draw(st.integers(1, 4)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_blocks_of_odd_maps_strides_paddings_and_groups(data):
    height, width = data.draw(st.integers(5, 13)), data.draw(st.integers(5, 13))
    channels, layers, extent, widths = 6, [], (height, width), {}
    for index in range(data.draw(st.integers(1, 3))):
        kernel = data.draw(st.integers(1, min(4, *extent)))
        stride, padding = data.draw(st.integers(1, 3)), data.draw(st.integers(0, kernel - 1))
        groups = data.draw(st.sampled_from([1, 2, 3]))
        layer = {"type": "conv", "kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
        if groups == 1:
            name = f"n{index}"
            layer["out"], widths[name] = name, 6 * data.draw(st.integers(1, 2))
        layers += [layer | {"out": layer.get("out", 6)}, {"type": "relu"}]
        extent = tuple((size + 2 * padding - kernel) // stride + 1 for size in extent)
    if data.draw(st.booleans()):
        layers.append({"type": "dense", "out": 5})
    layers += [{"type": "conv", "out": 2}]
    if not widths:
        layers[0] |= {"out": "n", "groups": 1}
        widths["n"] = 6
    baseline = BlockBaseline.model_validate(
        {
            "family": "block",
            "input": {"channels": channels, "height": height, "width": width},
            "layers": layers,
            "widths": widths,
        }
    )
    assert_counts_agree(baseline, (channels, height, width), tuple(widths.values()), data.draw(st.integers(1, 3)))
