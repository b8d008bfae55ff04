"""The layers of a chain as convolutions on the receptive field of a kernel entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from collegium.search.chain import Chain, WeightLayer
from collegium.search.receptive_field import Window, windows


@dataclass(frozen=True)
class ConvShape:
    """One layer of a chain as a convolution on its window; a dense layer's kernel is its whole map.

    ``in_channels`` counts the channels of the map that comes in, of which the first ``groups · group_in`` are read.
    ``pad`` is the zero padding (top, bottom, left, right) that the window itself needs.
    """

    in_channels: int
    groups: int
    group_in: int
    group_out: int
    kernel: tuple[int, int]
    stride: int
    pad: tuple[int, int, int, int]
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    relu: bool

    @property
    def fan_in(self) -> int:
        """Inputs that one unit sums over."""
        return self.group_in * self.taps

    @property
    def taps(self) -> int:
        """Positions under the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def positions(self) -> int:
        """Output positions in the window."""
        return self.out_size[0] * self.out_size[1]

    @property
    def out_channels(self) -> int:
        """Channels of the map that goes out."""
        return self.groups * self.group_out

    @property
    def gain(self) -> int:
        """Variance gain of the NTK parameterization (Littwin et al. 2020, Eq. 3): 2 before a ReLU, else 1."""
        return 2 if self.relu else 1


def conv_shapes(chain: Chain, entry: str) -> list[ConvShape]:
    """The layers of a concrete chain, cut down to what output channel 0 of ``entry`` depends on.

    Only positions of the receptive field are kept and, where the layers above are grouped, only the channels that
    reach channel 0. Raises ``ValueError`` for an empty receptive field or channels that groups do not divide.
    """
    frames = windows(chain, entry)
    channels = [shape[0] for shape in chain.shapes(())]
    shapes: list[ConvShape] = []
    needed = 1
    for index in reversed(range(len(chain.layers))):
        layer = chain.layers[index]
        all_groups = _groups(layer, index, channels)
        group_in, group_out = channels[index] // all_groups, channels[index + 1] // all_groups
        groups = -(-needed // group_out)
        group_out = min(group_out, needed)
        shapes.append(_on_window(layer, frames[index], frames[index + 1], groups, group_in, group_out))
        needed = groups * group_in
    shapes.reverse()
    # A group that is needed only in part is kept whole, so a map may bring more channels than the next layer reads.
    return shapes[:1] + [replace(b, in_channels=a.out_channels) for a, b in pairwise(shapes)]


def _groups(layer: WeightLayer, index: int, channels: list[int]) -> int:
    groups = 1 if layer.kind == "dense" else layer.groups
    incoming, outgoing = channels[index : index + 2]
    if incoming % groups or outgoing % groups:
        raise ValueError(f"layer {index}: {groups} groups do not divide {incoming} → {outgoing} channels")
    return groups


def _on_window(
    layer: WeightLayer, before: Window, after: Window, groups: int, group_in: int, group_out: int
) -> ConvShape:
    dense = layer.kind == "dense"
    kernel = (before.height, before.width) if dense else (layer.kernel, layer.kernel)
    stride, padding = (1, 0) if dense else (layer.stride, layer.padding)
    rows = _pads(before.top, before.height, after.top, after.height, kernel[0], stride, padding)
    columns = _pads(before.left, before.width, after.left, after.width, kernel[1], stride, padding)
    return ConvShape(
        in_channels=groups * group_in,
        groups=groups,
        group_in=group_in,
        group_out=group_out,
        kernel=kernel,
        stride=stride,
        pad=rows + columns,
        in_size=(before.height, before.width),
        out_size=(after.height, after.width),
        relu=layer.activation == "relu",
    )


def _pads(
    start: int, length: int, out_start: int, out_length: int, kernel: int, stride: int, padding: int
) -> tuple[int, int]:
    """Zeros before and after the window, so that its first output starts at its first (padded) position."""
    first = out_start * stride - padding
    last = first + (out_length - 1) * stride + kernel
    return start - first, max(last - start - length, 0)
