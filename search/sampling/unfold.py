"""The layers of a chain as convolutions on the receptive field of a kernel entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import assert_never

import torch
from torch import Tensor

from collegium.search.kernel.receptive_field import Window, windows
from collegium.search.networks.activation import Activation
from collegium.search.networks.chain import Axis, Chain, WeightLayer


@dataclass(frozen=True)
class ConvShape:
    """One layer of a chain as a convolution on its window; a dense layer's kernel is its whole map.

    ``in_channels`` counts the channels of the map that comes in, of which the first ``groups · group_in`` are read.
    ``pad`` is the zero padding (top, bottom, left, right) that the window itself needs. With ``bias`` each output
    channel has one; ``biased`` says that some layer's have. ``phi`` is the activation after the layer, and ``gain``
    its variance gain in the NTK parameterization (Littwin et al. 2020, Eq. 3), see ``Chain.gains``.
    """

    in_channels: int
    groups: int
    group_in: int
    group_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int, int, int]
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    phi: Activation
    gain: float
    bias: bool = False
    biased: bool = False

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
    def relu(self) -> bool:
        """Whether a rectifier follows."""
        return self.phi.name == "relu"


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
        shape = _on_window(layer, frames[index], frames[index + 1], groups, group_in, group_out)
        shapes.append(replace(shape, gain=chain.gains[index], bias=chain.biases[index], biased=any(chain.biases)))
        needed = groups * group_in
    shapes.reverse()
    # A group that is needed only in part is kept whole, so a map may bring more channels than the next layer reads.
    return shapes[:1] + [replace(b, in_channels=a.out_channels) for a, b in pairwise(shapes)]


def _groups(layer: WeightLayer, index: int, channels: list[int]) -> int:
    groups = layer.groups
    incoming, outgoing = channels[index : index + 2]
    if incoming % groups or outgoing % groups:
        raise ValueError(f"layer {index}: {groups} groups do not divide {incoming} → {outgoing} channels")
    return groups


def _on_window(
    layer: WeightLayer, before: Window, after: Window, groups: int, group_in: int, group_out: int
) -> ConvShape:
    match layer.kind:
        case "dense":
            high, wide = Axis(before.height, 1, 0, 1), Axis(before.width, 1, 0, 1)
        case "conv":
            high, wide = layer.along(0), layer.along(1)
        case _:
            assert_never(layer.kind)
    rows = _pads(before.top, before.height, after.top, after.height, high)
    columns = _pads(before.left, before.width, after.left, after.width, wide)
    return ConvShape(
        in_channels=groups * group_in,
        groups=groups,
        group_in=group_in,
        group_out=group_out,
        kernel=(high.kernel, wide.kernel),
        stride=(high.stride, wide.stride),
        dilation=(high.dilation, wide.dilation),
        pad=rows + columns,
        in_size=(before.height, before.width),
        out_size=(after.height, after.width),
        phi=layer.phi,
        gain=1.0,
    )


def _pads(start: int, length: int, out_start: int, out_length: int, axis: Axis) -> tuple[int, int]:
    """Zeros before and after the window, so that its first output starts at its first (padded) position."""
    first = out_start * axis.stride - axis.padding
    last = first + (out_length - 1) * axis.stride + axis.reach
    return start - first, max(last - start - length, 0)


class Patches:
    """Reads the patches of a map, and adds patches back onto one, for a fixed number of samples.

    Patches are ``(samples · groups, inputs · positions, fan_in)``. The buffers are allocated once and overwritten by
    every call; where a patch is the map itself, no copy is made.
    """

    def __init__(self, shape: ConvShape, samples: int, inputs: int, device: torch.device, dtype: torch.dtype):
        self._shape = shape
        (height, width), (top, bottom, left, right) = shape.in_size, shape.pad
        self._map = (samples, inputs, height, width, shape.in_channels)
        self._rows = (samples * shape.groups, inputs * shape.positions, shape.fan_in)
        self._taps = (samples, shape.groups, inputs, *shape.out_size, *shape.kernel, shape.group_in)
        pointwise = shape.kernel == (1, 1) and shape.stride == (1, 1)
        self._is_map = (
            (pointwise or (shape.kernel == shape.in_size and shape.dilation == (1, 1)))
            and not any(shape.pad)
            and shape.groups == 1
            and shape.in_channels == shape.group_in
        )
        if not self._is_map:
            padded = (samples, inputs, height + top + bottom, width + left + right, shape.in_channels)
            self._padded = torch.zeros(padded, device=device, dtype=dtype)
            self._summed = torch.empty(padded, device=device, dtype=dtype)
            self._patches = torch.empty(self._taps, device=device, dtype=dtype)
            # Sums over the kernel's rows alone: adding back is k + k strided sums this way, not k².
            across = (samples, shape.groups, inputs, padded[2], shape.out_size[1], shape.kernel[1], shape.group_in)
            self._across = torch.empty(across, device=device, dtype=dtype)

    def read(self, features: Tensor) -> Tensor:
        """Patches under the kernel at every output position of the map ``features``."""
        if self._is_map:
            return features.reshape(self._rows)
        self._inside(self._padded).copy_(features)
        self._patches.copy_(self._padded.as_strided(self._taps, self._strides()))
        return self._patches.view(self._rows)

    def add(self, patches: Tensor) -> Tensor:
        """The transpose of :meth:`read`: patches summed where they overlap, as a map."""
        if self._is_map:
            return patches.reshape(self._map)
        shape, taps = self._shape, patches.reshape(self._taps)
        (down, right), (high, wide) = shape.stride, shape.dilation
        rows, columns = down * shape.out_size[0], right * shape.out_size[1]
        across = self._across.zero_()
        for i in range(shape.kernel[0]):
            across[:, :, :, high * i : high * i + rows : down] += taps[:, :, :, :, :, i]
        used = self._summed.zero_()[..., : shape.groups * shape.group_in]
        grouped = used.unflatten(-1, (shape.groups, shape.group_in)).permute(0, 4, 1, 2, 3, 5)
        for j in range(shape.kernel[1]):
            grouped[:, :, :, :, wide * j : wide * j + columns : right] += across[:, :, :, :, :, j]
        return self._inside(self._summed)

    def _inside(self, padded: Tensor) -> Tensor:
        (height, width), (top, _, left, _) = self._shape.in_size, self._shape.pad
        return padded[:, :, top : top + height, left : left + width]

    def _strides(self) -> tuple[int, ...]:
        """Strides of the padded map seen as (sample, group, input, row, column, tap row, tap column, channel)."""
        sample, per_input, row, column, channel = self._padded.stride()
        (down, right), (high, wide) = self._shape.stride, self._shape.dilation
        steps = down * row, right * column, high * row, wide * column
        return sample, self._shape.group_in, per_input, *steps, channel
