"""Residual networks as torchvision's arguments give them, where they can.

``torchvision.models.resnet.ResNet(block, layers, groups, width_per_group)`` has the ImageNet stem, four stages, and one
m × n: its bottlenecks have ``int(64 · 2^i · width_per_group / 64) · groups`` channels in stage i, its basic blocks the
stage's own. A network whose stages are grouped each in its own way has torchvision's names of parameters all the same,
and is built by the ``network.py`` that is written with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

#: Blocks by their kind: torchvision's class, and its outputs over the stage's channels.
CLASSES = {"bottleneck": ("Bottleneck", 4), "basic": ("BasicBlock", 1)}
CHANNELS, STAGES, STEM_KERNEL = 64, 4, 7


def torchvision_arguments(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Torchvision's arguments for the network of our ``ResNet``'s ``arguments``; None where none give it.

    >>> from collegium.search.networks.build import build_network
    >>> from collegium.search.spec import PresetBaseline
    >>> network = build_network(PresetBaseline(preset="resnet50"))
    >>> torchvision_arguments(network.arguments((10, 10), 12))
    {'block': 'Bottleneck', 'layers': [3, 4, 6, 3], 'groups': 12, 'width_per_group': 10, 'num_classes': 1000}
    """
    name, expansion = CLASSES.get(arguments["block"], (None, 0))
    stages = arguments["stages"]
    if name is None or (arguments["stem_kernel"], arguments["stem_channels"]) != (STEM_KERNEL, CHANNELS):
        return None
    groups, width = _grouping(arguments) if name == "Bottleneck" else (1, CHANNELS)
    if width is None or stages != _stages([len(stage) for stage in stages], name, expansion, groups * width):
        return None
    return {
        "block": name,
        "layers": [len(stage) for stage in stages],
        "groups": groups,
        "width_per_group": width,
        "num_classes": arguments["classes"],
    }


def _grouping(arguments: Mapping[str, Any]) -> tuple[int, int | None]:
    """Groups and the width of one in the first stage; None where the stages have groups of their own."""
    groups = arguments["groups"]
    return (groups, arguments["stages"][0][0]["widths"][0] // groups) if isinstance(groups, int) else (1, None)


def _stages(layers: Sequence[int], name: str, expansion: int, channels: int) -> list[list[dict[str, Any]]] | None:
    """The blocks that torchvision builds, the first stage's ``channels`` wide inside; None unless there are four."""
    if len(layers) != STAGES:
        return None
    outputs = [CHANNELS, *(CHANNELS * expansion * 2**index for index in range(STAGES))]
    inside = 2 if name == "Bottleneck" else 1
    return [
        [
            {
                "inputs": after if position else before,
                "widths": [channels * 2**index] * inside,
                "outputs": after,
                "stride": 2 if index and not position else 1,
            }
            for position in range(count)
        ]
        for index, (count, (before, after)) in enumerate(zip(layers, pairwise(outputs), strict=True))
    ]
