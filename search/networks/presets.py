"""Named baselines: the architectures of Littwin et al. 2020 and others that users look for.

Those of the families of this package are written here. Networks of torchvision, timm and transformers have their
descriptions, as ``collegium.describe`` made them, in ``described/``; their names are those of ``collegium describe``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.networks.family import FamilyBaseline

Small = Literal["cifar", "imagenet32", "imagenet64"]


def _imagenet(depth: int, cardinality: int = 1, base_width: int = 64, **more) -> ResNextBaseline:
    return ResNextBaseline(
        family="resnext",
        layout="imagenet",
        depth=depth,
        cardinality=cardinality,
        base_width=base_width,
        **more,
    )


def _cifar(cardinality: int, base_width: int, classes: int = 10, layout: Small = "cifar") -> ResNextBaseline:
    return ResNextBaseline(
        family="resnext",
        layout=layout,
        depth=29,
        cardinality=cardinality,
        base_width=base_width,
        classes=classes,
    )


def _mlp(inputs: int, width: int, depth: int, outputs: int = 1) -> MlpBaseline:
    return MlpBaseline(family="mlp", inputs=inputs, hidden=(width,) * depth, outputs=outputs)


#: Where descriptions are, one file for each library; ``benchmarks/describe_presets.py`` writes them.
DESCRIBED = Path(__file__).parent / "described"
#: Name → (baseline, one line about it). The MLP of Figure 3 has the published input size, 748.
OWN: dict[str, tuple[FamilyBaseline, str]] = {
    "resnet50": (_imagenet(50), "ResNet-50 for ImageNet, 1×64d"),
    "resnet101": (_imagenet(101), "ResNet-101 for ImageNet, 1×64d"),
    "resnet152": (_imagenet(152), "ResNet-152 for ImageNet, 1×64d"),
    "wide-resnet50-2": (_imagenet(50, 1, 128), "Wide ResNet-50-2: bottlenecks twice as wide"),
    "wide-resnet101-2": (_imagenet(101, 1, 128), "Wide ResNet-101-2: bottlenecks twice as wide"),
    "resnext50-32x4d": (_imagenet(50, 32, 4), "ResNeXt-50 32×4d"),
    "resnext101-32x4d": (_imagenet(101, 32, 4), "ResNeXt-101 32×4d"),
    "resnext101-32x8d": (_imagenet(101, 32, 8), "ResNeXt-101 32×8d"),
    "resnext101-64x4d": (_imagenet(101, 64, 4), "ResNeXt-101 64×4d"),
    "resnet18": (_imagenet(18, block="basic"), "ResNet-18: basic blocks, where grouping has nothing to gain"),
    "resnet34": (_imagenet(34, block="basic"), "ResNet-34: basic blocks, where grouping has nothing to gain"),
    "resnext29-1x64d": (_cifar(1, 64), "ResNeXt-29 for CIFAR-10, 1×64d"),
    "resnext29-1x128d": (_cifar(1, 128), "ResNeXt-29 for CIFAR-10, 1×128d (Littwin et al. 2020, Table 1)"),
    "resnext29-1x226d": (_cifar(1, 226), "ResNeXt-29 for CIFAR-10, 1×226d (Littwin et al. 2020, Table 1)"),
    "resnext29-3x64d": (_cifar(3, 64), "ResNeXt-29 for CIFAR-10, 3×64d"),
    "resnext29-8x64d": (_cifar(8, 64), "ResNeXt-29 for CIFAR-10, 8×64d"),
    "resnext29-1x128d-cifar100": (_cifar(1, 128, 100), "ResNeXt-29 for CIFAR-100, 1×128d"),
    "resnext29-1x128d-imagenet32": (_cifar(1, 128, 1000, "imagenet32"), "ResNeXt-29 for ImageNet32, 1×128d"),
    "resnext29-1x128d-imagenet64": (_cifar(1, 128, 1000, "imagenet64"), "ResNeXt-29 for ImageNet64, 1×128d"),
    "mlp-mnist-6x500": (
        _mlp(748, 500, 5),
        "MLP of Littwin et al. 2020, Figure 3: 6 weight layers of width 500",
    ),
    "mlp-mnist-6x200": (
        _mlp(784, 200, 5, 10),
        "MLP of Littwin et al. 2020, Figure 4: 6 weight layers of width 200",
    ),
    "mlp-digits-6x100": (_mlp(64, 100, 5, 10), "MLP for scikit-learn's digits: 6 weight layers of width 100"),
    "mlp-cifar-400-200-100": (
        MlpBaseline(family="mlp", inputs=3072, hidden=(400, 200, 100), outputs=10),
        "MLP A3 of Mazzawi et al. 2024, Appendix G",
    ),
}


class Presets(Mapping[str, tuple[FamilyBaseline, str]]):
    """Presets by name; descriptions are read and validated when they are first asked for.

    >>> PRESETS["torchvision:vgg16"][0].parameters
    138357544
    """

    def __init__(self) -> None:
        self._validated: dict[str, tuple[FamilyBaseline, str]] = dict(OWN)

    @cached_property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Of every described network its ``parameters`` and ``flops``, without reading its description."""
        return json.loads((DESCRIBED / "index.json").read_text(encoding="utf-8"))

    def __getitem__(self, name: str) -> tuple[FamilyBaseline, str]:
        if name not in self._validated:
            if name not in self.sizes:
                raise KeyError(name)
            self._validated[name] = NetworkBaseline.model_validate_json(_described(name)), self.about(name)
        return self._validated[name]

    def about(self, name: str) -> str:
        """One line about a preset."""
        library, _, own = name.partition(":")
        return OWN[name][1] if name in OWN else f"{own} of {library}, as described"

    def __iter__(self) -> Iterator[str]:
        yield from OWN
        yield from self.sizes

    def __contains__(self, name: object) -> bool:
        return name in OWN or name in self.sizes

    def __len__(self) -> int:
        return len(OWN) + len(self.sizes)


def _described(name: str) -> str:
    """The JSON of a described network: its line in the file of its library, of which no other line is parsed."""
    library, _, own = name.partition(":")
    start = f"{json.dumps(own)}: "
    with (DESCRIBED / f"{library}.json").open(encoding="utf-8") as lines:
        return next(line.removeprefix(start) for line in lines if line.startswith(start)).rstrip().rstrip(",")


PRESETS = Presets()
