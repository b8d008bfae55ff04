"""The layers of a chain as convolutions on the receptive field of a kernel entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import assert_never

import torch
from torch import Tensor

from collegium.search.kernel.receptive_field import LayerWindows, layer_windows
from collegium.search.networks.activation import Activation
from collegium.search.networks.chain import Axis, Chain, WeightLayer


@dataclass(frozen=True)
class ConvShape:
    """One layer of a chain as a convolution on its window; a dense layer's kernel is its whole map.

    ``in_channels`` counts the channels of the map that comes in, of which the first ``groups · group_in`` are read.
    Sizes are those along its rows and columns, behind one along its depth in maps of three dimensions. ``pad`` is the
    zero padding that the window itself needs, the start and the end of each axis: (top, bottom, left, right). With
    ``bias`` each output channel has one; ``biased`` says that some layer's have. ``phi`` is the activation on what the
    layer computes, and ``gain`` its variance gain in the NTK parameterization (Littwin et al. 2020, Eq. 3), see
    ``Chain.gains``.
    """

    in_channels: int
    groups: int
    group_in: int
    group_out: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad: tuple[int, ...]
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
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
        return prod(self.kernel)

    @property
    def positions(self) -> int:
        """Output positions in the window."""
        return prod(self.out_size)

    @property
    def padded_size(self) -> tuple[int, ...]:
        """Extents of the map that comes in with its padding."""
        pads = zip(self.pad[::2], self.pad[1::2], strict=True)
        return tuple(size + sum(both) for size, both in zip(self.in_size, pads, strict=True))

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
    frames = layer_windows(chain, entry)
    channels = [shape[0] for shape in chain.shapes(())]
    shapes: list[ConvShape] = []
    needed = 1
    for index in reversed(range(len(chain.layers))):
        layer = chain.layers[index]
        all_groups = _groups(layer, index, channels)
        group_in, group_out = channels[index] // all_groups, channels[index + 1] // all_groups
        groups = -(-needed // group_out)
        group_out = min(group_out, needed)
        shape = _on_window(layer, frames[index], groups, group_in, group_out)
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


def _on_window(layer: WeightLayer, frame: LayerWindows, groups: int, group_in: int, group_out: int) -> ConvShape:
    before, after = frame.read, frame.computed
    match layer.kind:
        case "dense":
            axes = [Axis(size, 1, 0, 1) for size in before.sizes]
        case "conv":
            axes = [layer.along(axis) for axis in range(-len(before.sizes), 0)]
        case _:
            assert_never(layer.kind)
    ends = zip(before.starts, before.sizes, after.starts, after.sizes, axes, strict=True)
    return ConvShape(
        in_channels=groups * group_in,
        groups=groups,
        group_in=group_in,
        group_out=group_out,
        kernel=tuple(axis.kernel for axis in axes),
        stride=tuple(axis.stride for axis in axes),
        dilation=tuple(axis.dilation for axis in axes),
        pad=tuple(pad for each in ends for pad in _pads(*each)),
        in_size=before.sizes,
        out_size=after.sizes,
        phi=Activation("linear") if layer.early else layer.phi,
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
        self._map = (samples, inputs, *shape.in_size, shape.in_channels)
        self._rows = (samples * shape.groups, inputs * shape.positions, shape.fan_in)
        self._taps = (samples, shape.groups, inputs, *shape.out_size, *shape.kernel, shape.group_in)
        pointwise = shape.taps == prod(shape.stride) == 1
        self._is_map = (
            (pointwise or (shape.kernel == shape.in_size and prod(shape.dilation) == 1))
            and not any(shape.pad)
            and shape.groups == 1
            and shape.in_channels == shape.group_in
        )
        if not self._is_map:
            padded = (samples, inputs, *shape.padded_size, shape.in_channels)
            self._padded = torch.zeros(padded, device=device, dtype=dtype)
            self._summed = torch.empty(padded, device=device, dtype=dtype)
            self._patches = torch.empty(self._taps, device=device, dtype=dtype)
            # Sums over the kernel along one axis at a time: adding back is k + k strided sums this way, not k².
            count = len(shape.kernel)
            self._across = [
                torch.empty(
                    (
                        *(samples, shape.groups, inputs),
                        *(*shape.padded_size[: axis + 1], *shape.out_size[axis + 1 :]),
                        *(*shape.kernel[axis + 1 :], shape.group_in),
                    ),
                    device=device,
                    dtype=dtype,
                )
                for axis in range(count - 1)
            ]

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
        count = len(shape.kernel)
        used = self._summed.zero_()[..., : shape.groups * shape.group_in]
        grouped = used.unflatten(-1, (shape.groups, shape.group_in)).movedim(-2, 1)
        for axis, summed in enumerate([*(each.zero_() for each in self._across), grouped]):
            step, wide, out = shape.stride[axis], shape.dilation[axis], shape.out_size[axis]
            for tap in range(shape.kernel[axis]):
                # Behind (sample, group, input) come the axes of the map; the first kernel axis left is this one.
                own = taps.select(3 + count, tap)
                summed[(*_ALL[: 3 + axis], slice(wide * tap, wide * tap + step * out, step))] += own
            taps = summed
        return self._inside(self._summed)

    def _inside(self, padded: Tensor) -> Tensor:
        sizes = zip(self._shape.pad[::2], self._shape.in_size, strict=True)
        return padded[(slice(None), slice(None), *(slice(start, start + size) for start, size in sizes))]

    def _strides(self) -> tuple[int, ...]:
        """Strides of the padded map seen as (sample, group, input, position, tap, channel), axis by axis."""
        sample, per_input, *axes, channel = self._padded.stride()
        steps = [step * own for step, own in zip(self._shape.stride, axes, strict=True)]
        taps = [wide * own for wide, own in zip(self._shape.dilation, axes, strict=True)]
        return sample, self._shape.group_in, per_input, *steps, *taps, channel


_ALL = (slice(None),) * 8
