"""A chain of weight layers: the module whose neural tangent kernel a search studies.

A chain is the common form to which every baseline is lowered: an MLP, a bottleneck block, or any user-given
sequence of convolutions and dense layers. A width is either fixed (an integer) or free (an index into the
width vector n of one ensemble member).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

Activation = Literal["relu", "linear"]


@dataclass(frozen=True)
class Free:
    """A free width: position ``index`` of the width vector."""

    index: int


@dataclass(frozen=True)
class WeightLayer:
    """One convolution or dense layer and the activation after it.

    A dense layer sees its whole input feature map, flattened; ``kernel``, ``stride`` and ``padding`` are ignored.
    """

    kind: Literal["conv", "dense"]
    out: int | Free
    activation: Activation = "relu"
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def output_size(self, size: int) -> int:
        """Spatial extent after this layer, from the extent ``size`` before it."""
        if self.kind == "dense":
            return 1
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Chain:
    """Weight layers in order, applied to an input of shape ``(channels, height, width)``.

    ``names`` gives the free widths their names, in the order of the width vector. The last layer's activation is
    always ``linear``: its units are the outputs whose kernel is studied.
    """

    channels: int
    height: int
    width: int
    layers: tuple[WeightLayer, ...]
    names: tuple[str, ...]

    def at(self, widths: Sequence[int]) -> Chain:
        """The chain with every free width replaced by its value in ``widths``."""
        if len(widths) != len(self.names):
            raise ValueError(f"expected {len(self.names)} widths {self.names}, got {len(widths)}")
        layers = tuple(replace(layer, out=self._value(layer.out, widths)) for layer in self.layers)
        return replace(self, layers=layers, names=())

    @staticmethod
    def _value(out: int | Free, widths: Sequence[int]) -> int:
        return int(widths[out.index]) if isinstance(out, Free) else out

    def shapes(self, widths: Sequence[int]) -> list[tuple[int, int, int]]:
        """Shapes ``(channels, height, width)`` before each layer and after the last one."""
        shapes = [(self.channels, self.height, self.width)]
        for layer in self.layers:
            _, height, width = shapes[-1]
            out = self._value(layer.out, widths)
            shapes.append((out, layer.output_size(height), layer.output_size(width)))
        return shapes

    def fan_ins(self, widths: Sequence[int]) -> list[int]:
        """Inputs that one unit of each layer sums over, at the given width vector."""
        fans = []
        for layer, (channels, height, width) in zip(self.layers, self.shapes(widths), strict=False):
            area = height * width if layer.kind == "dense" else layer.kernel**2
            fans.append(channels * area // (1 if layer.kind == "dense" else layer.groups))
        return fans

    def parameters(self, widths: Sequence[int]) -> int:
        """Weights of one member, no biases: Σ_l out_l · fan_in_l."""
        outs = [shape[0] for shape in self.shapes(widths)[1:]]
        return sum(out * fan for out, fan in zip(outs, self.fan_ins(widths), strict=True))

    def flops(self, widths: Sequence[int]) -> int:
        """Multiply–accumulate operations of one member for one input."""
        shapes = self.shapes(widths)[1:]
        return sum(
            out * fan * height * width for (out, height, width), fan in zip(shapes, self.fan_ins(widths), strict=True)
        )

    def fingerprint(self) -> str:
        """A stable hash of the topology; equal chains have equal fingerprints in every process."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def ensemble_chain(chain: Chain, widths: Sequence[int], multiplicity: int) -> Chain | None:
    """The chain of m members of the given widths; it has no free widths.

    Dense layers become convolutions as large as their map, because only those have groups. None where that is not
    possible: a dense layer over a map that is not square, a grouped first or last layer, or no layer between them.
    """
    concrete = chain.at(widths)
    shapes = concrete.shapes(())
    layers = concrete.layers
    if multiplicity == 1:
        return concrete
    if len(layers) < 2 or layers[0].groups > 1 or layers[-1].groups > 1:
        return None
    grouped = []
    for index, (layer, shape) in enumerate(zip(layers, shapes, strict=False)):
        first, last = index == 0, index == len(layers) - 1
        made = _as_convolution(layer, shape)
        if made is None:
            return None
        out = made.out if last else _fixed(made.out) * multiplicity
        groups = 1 if first or last else made.groups * multiplicity
        grouped.append(replace(made, out=out, groups=groups))
    return replace(concrete, layers=tuple(grouped))


def _as_convolution(layer: WeightLayer, shape: tuple[int, int, int]) -> WeightLayer | None:
    if layer.kind == "conv":
        return layer
    _, height, width = shape
    if height != width:
        return None
    return replace(layer, kind="conv", kernel=height, stride=1, padding=0, groups=1)


def _fixed(out: object) -> int:
    assert isinstance(out, int)
    return out
