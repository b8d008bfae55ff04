"""ResNets and ResNeXts: the CIFAR and ImageNet32/64 forms of Xie et al. 2017, and the ImageNet family.

Modules and parameters are named as torchvision names them, so that a checkpoint of the ImageNet family loads into
``torchvision.models.ResNet`` with the same arguments as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from search.network import ResidualNetwork


class Bottleneck(nn.Module):
    """x + [1×1 → 3×3 in groups → 1×1](x): the m paths of a collegial ensemble are the groups of the 3×3."""

    def __init__(self, inputs: int, widths: tuple[int, int], outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        first, second = (groups * width for width in widths)
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

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
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


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, linear head.

    ``widths`` are the free widths of one member in the first stage; they double with every stage, and ``groups`` is
    the same everywhere. The ImageNet form, with a 7×7 stem, has a max-pool after it.
    """

    def __init__(self, network: ResidualNetwork, widths: Sequence[int], groups: int, classes: int) -> None:
        super().__init__()
        large_stem = network.stem_kernel == 7
        stem = network.stem_channels
        self.conv1 = nn.Conv2d(
            3, stem, network.stem_kernel, stride=2 if large_stem else 1, padding=network.stem_kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        if large_stem:
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = [f"layer{index + 1}" for index in range(len(network.stages))]
        for name, stage in zip(self.stages, network.stages, strict=True):
            members = [stage.scale * width for width in widths]
            blocks = []
            for index in range(stage.blocks):
                inputs, stride = (stage.inputs, stage.stride) if index == 0 else (stage.outputs, 1)
                if network.block == "basic":
                    blocks.append(BasicBlock(inputs, groups * members[0], stage.outputs, stride))
                else:
                    pair = (members[0], members[-1])
                    blocks.append(Bottleneck(inputs, pair, stage.outputs, groups, stride))
            self.add_module(name, nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(network.stages[-1].outputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(batch, classes)`` of images ``(batch, 3, height, width)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        if hasattr(self, "maxpool"):
            x = self.maxpool(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(self.avgpool(x).flatten(1))
