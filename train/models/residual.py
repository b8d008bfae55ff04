"""ResNets and ResNeXts: the CIFAR and ImageNet32/64 forms of Xie et al. 2017, and the ImageNet family.

Modules and parameters are named as torchvision names them, so that a checkpoint of the ImageNet family loads into
``torchvision.models.ResNet`` with the same arguments as it is. This file travels with every checkpoint of such a
network, so it needs torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """x + [1×1 → 3×3 in groups → 1×1](x): the m paths of a collegial ensemble are the groups of the 3×3.

    ``widths`` are the channels (m·n₁, m·n₂) between the layers.
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(inputs, first, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same extent, divided by the stride."""
        identity = x if self.downsample is None else self.downsample(x)
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.relu(self.bn2(self.conv2(h)))
        return self.relu(self.bn3(self.conv3(h)) + identity)


class BasicBlock(nn.Module):
    """x + [3×3 → 3×3](x). With one free layer, m paths of width n are one path of width m·n."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        (width,) = widths
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same extent, divided by the stride."""
        identity = x if self.downsample is None else self.downsample(x)
        h = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(h)) + identity)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A projection where the shape changes, and the identity elsewhere (He et al. 2016, option B)."""
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


BLOCKS: dict[str, type[nn.Module]] = {"bottleneck": Bottleneck, "basic": BasicBlock}


def residual_block(kind: str, **arguments: Any) -> nn.Module:
    """One block of the ``kind``. Raises ``ValueError`` for an unknown one."""
    if kind not in BLOCKS:
        raise ValueError(f"no residual block is called {kind!r}; there are {', '.join(BLOCKS)}")
    return BLOCKS[kind](**arguments)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, linear head.

    ``block`` is the kind of the residual blocks. ``stem_kernel`` 7 is the ImageNet stem, with stride 2 and a max-pool
    after it. ``stages`` gives each stage's blocks as ``{inputs, widths, outputs, stride}``, and ``groups`` the groups
    of all blocks, or of those of each stage. In training mode the averaged features that the head reads are set to zero
    with the probability ``dropout``: behind the last batch norm, whose statistics it would change.

    Raises ``ValueError`` for an unknown kind of block, or where ``groups`` are not as many as the stages.
    """

    def __init__(
        self,
        block: str,
        stem_kernel: int,
        stem_channels: int,
        stages: Sequence[Sequence[dict[str, Any]]],
        groups: int | Sequence[int],
        classes: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        large = stem_kernel == 7
        self.conv1 = nn.Conv2d(
            3, stem_channels, stem_kernel, stride=2 if large else 1, padding=stem_kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        if large:
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = [f"layer{index + 1}" for index in range(len(stages))]
        members = [groups] * len(stages) if isinstance(groups, int) else groups
        for name, blocks, paths in zip(self.stages, stages, members, strict=True):
            self.add_module(name, nn.Sequential(*(residual_block(block, groups=paths, **each) for each in blocks)))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        if dropout:
            self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(stages[-1][-1]["outputs"], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of images ``(batch, 3, height, width)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        if hasattr(self, "maxpool"):
            x = self.maxpool(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        x = self.avgpool(x).flatten(1)
        return self.fc(self.dropout(x) if hasattr(self, "dropout") else x)
