"""The layers of a branch: what each is, what it costs, and how it changes the extents of the map that it reads.

Widths are not a layer's own: a branch lists them once, as the outputs of its weight layers in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from collegium.search.fields import MAX_LAYERS, Strict, Width
from collegium.search.networks.pooling import PoolAxis

#: Positions along one dimension of a map.
Extent = Annotated[int, Field(ge=1, le=10**9)]
Extents = Annotated[tuple[Extent, ...], Field(max_length=8, strict=False)]
Spatial = Annotated[tuple[Extent, ...], Field(min_length=1, max_length=3, strict=False)]
Padding = Annotated[tuple[Annotated[int, Field(ge=0, le=10**9)], ...], Field(min_length=1, max_length=3, strict=False)]


class Conv(Strict):
    """A convolution of one to three dimensions; sizes are given for each.

    ``depthwise`` is one whose ``groups`` are the channels that it reads: its width is that of its neighbour.
    """

    kind: Literal["conv"]
    kernel: Spatial
    stride: Spatial
    padding: Padding
    dilation: Spatial
    groups: Width = 1
    bias: bool = False
    depthwise: bool = False

    @model_validator(mode="after")
    def _one_size_for_each_dimension(self) -> Conv:
        if len({len(sizes) for sizes in (self.kernel, self.stride, self.padding, self.dilation)}) > 1:
            raise ValueError("kernel, stride, padding and dilation must have one size for each dimension")
        return self

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Extents of its outputs. Raises ``ValueError`` where the map does not fit."""
        _check_dimensions(extents, self.kernel)
        sizes = zip(extents, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        found = tuple((size + 2 * pad - wide * (k - 1) - 1) // step + 1 for size, k, step, pad, wide in sizes)
        return _checked_size(extents, found)

    def weights(self, inputs: int, outputs: int) -> int:
        """Numbers in its kernel."""
        return outputs * (inputs // (inputs if self.depthwise else self.groups)) * math.prod(self.kernel)


class Linear(Strict):
    """A dense layer along the channels, the same at each of ``positions``."""

    kind: Literal["linear"]
    bias: bool = False
    positions: Extent = 1

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """The same extents. Raises ``ValueError`` where these are not its ``positions``."""
        if math.prod(extents) != self.positions:
            raise ValueError(f"positions must be {math.prod(extents)}, those of the map before it")
        return extents

    def weights(self, inputs: int, outputs: int) -> int:
        """Numbers in its matrix."""
        return inputs * outputs


class Norm(Strict):
    """A normalization of the channels, with or without a ``scale`` and a ``shift`` for each.

    ``layer`` and ``rms`` normalize over all channels, ``group`` over each of ``groups``.
    """

    kind: Literal["norm"]
    norm: Literal["batch", "layer", "group", "instance", "rms"]
    scale: bool = True
    shift: bool = True
    groups: Width = 1

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """The same extents."""
        return extents


#: Constants that a function has; the others have none.
CONSTANTS = {
    "leaky_relu": 1,
    "elu": 1,
    "celu": 1,
    "hardtanh": 2,
    "softplus": 2,
    "hardshrink": 1,
    "softshrink": 1,
}


class ActivationLayer(Strict):
    """An elementwise function; ``parameters`` are its constants in the order in which PyTorch's function takes them.

    ``other`` is a function of one number that is none of those with a name.
    """

    kind: Literal["activation"]
    function: Literal[
        "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "gelu_tanh", "silu", "mish", "hardswish",
        "sigmoid", "hardsigmoid", "logsigmoid", "tanh", "tanhshrink", "hardtanh", "softplus", "softsign", "hardshrink",
        "softshrink", "other",
    ]  # fmt: skip
    parameters: Annotated[
        tuple[Annotated[float, Field(ge=-1e12, le=1e12)], ...], Field(max_length=4, strict=False)
    ] = ()

    @field_validator("parameters")
    @classmethod
    def _constants_of_the_function(cls, parameters: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        expected = CONSTANTS.get(info.data.get("function", ""), 0)
        if parameters and len(parameters) != expected and "function" in info.data:
            raise ValueError(f"{info.data['function']} has {expected or 'no'} constant{'s' * (expected != 1)}")
        return parameters

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """The same extents."""
        return extents


class Pool(Strict):
    """A maximum or mean over windows of each channel.

    Windows are given by ``kernel``, ``stride``, ``padding`` and ``dilation``, or by the ``output`` extents of an
    adaptive or global pool. ``count_padding`` says whether a mean counts the zeros of padding.
    """

    kind: Literal["pool"]
    function: Literal["max", "average"]
    kernel: Spatial | None = None
    stride: Spatial | None = None
    padding: Padding | None = None
    dilation: Spatial | None = None
    ceil_mode: bool = False
    output: Extents | None = None
    count_padding: bool = True

    @model_validator(mode="after")
    def _windows_or_output(self) -> Pool:
        windows = (self.kernel, self.stride, self.padding, self.dilation)
        given = [sizes for sizes in windows if sizes is not None]
        if self.output is not None and given:
            raise ValueError("give either 'output' or the windows, and not both")
        if self.output is None and (len(given) < 4 or len({len(sizes) for sizes in given}) > 1):
            raise ValueError("give 'output', or kernel, stride, padding and dilation with a size for each dimension")
        if self.function == "average" and any(wide > 1 for wide in self.dilation or ()):
            raise ValueError("dilation must be 1 of an average")
        if any(2 * pad > kernel for pad, kernel in zip(self.padding or (), self.kernel or (), strict=False)):
            raise ValueError("padding must be at most half of the kernel")
        return self

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Extents of its outputs. Raises ``ValueError`` where the map does not fit."""
        if self.output is not None:
            return self.output
        _check_dimensions(extents, self.kernel or ())
        sizes = zip(self.along, extents, strict=True)
        return _checked_size(extents, tuple(axis.output_size(size) for axis, size in sizes))

    @property
    def along(self) -> tuple[PoolAxis, ...]:
        """Its windows along each axis."""
        if self.output is not None:
            return tuple(PoolAxis(output=size) for size in self.output)
        sizes = zip(self.kernel or (), self.stride or (), self.padding or (), self.dilation or (), strict=True)
        return tuple(PoolAxis(*each, ceil_mode=self.ceil_mode) for each in sizes)


class Pad(Strict):
    """Padding at the start and end of each dimension, by an operation of its own.

    ``constant`` pads with zeros, ``other`` with another number.
    """

    kind: Literal["pad"]
    start: Padding
    end: Padding
    mode: Literal["constant", "reflect", "replicate", "circular", "other"] = "constant"

    @model_validator(mode="after")
    def _one_size_for_each_dimension(self) -> Pad:
        if len(self.start) != len(self.end):
            raise ValueError("start and end must have one size for each dimension")
        return self

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Extents with the padding. Raises ``ValueError`` for another number of dimensions."""
        _check_dimensions(extents, self.start, "start")
        return tuple(sum(sizes) for sizes in zip(self.start, extents, self.end, strict=True))


class Dropout(Strict):
    """Dropout of this rate, as training has it."""

    kind: Literal["dropout"]
    rate: Annotated[float, Field(ge=0, le=1)]

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """The same extents."""
        return extents


class Reshape(Strict):
    """The same positions in another arrangement, as tokens become a map; channels stay channels."""

    kind: Literal["reshape"]
    extents: Extents

    def after(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Its own extents. Raises ``ValueError`` where they have another number of positions."""
        if math.prod(extents) != math.prod(self.extents):
            raise ValueError(f"extents must have the {math.prod(extents)} positions of the map before it")
        return self.extents


WeightedLayer = Conv | Linear
Layer = Annotated[
    Conv | Linear | Norm | ActivationLayer | Pool | Pad | Dropout | Reshape,
    Field(discriminator="kind"),
]
Layers = Annotated[tuple[Layer, ...], Field(max_length=8 * MAX_LAYERS, strict=False)]


@dataclass(frozen=True)
class Placed:
    """A layer where it stands: the ``inputs`` that it reads, its ``outputs``, and the extents after it."""

    layer: Layer
    inputs: int
    outputs: int
    extents: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Its trainable numbers."""
        match self.layer:
            case Conv() | Linear():
                return self.layer.weights(self.inputs, self.outputs) + self.layer.bias * self.outputs
            case Norm():
                return (self.layer.scale + self.layer.shift) * self.outputs
        return 0

    @property
    def flops(self) -> int:
        """Multiply–accumulate operations for one sample."""
        match self.layer:
            case Conv() | Linear():
                return self.layer.weights(self.inputs, self.outputs) * math.prod(self.extents)
        return 0


def weight_layers(layers: Sequence[Layer]) -> list[WeightedLayer]:
    """The convolutions and linear layers, in order."""
    return [layer for layer in layers if isinstance(layer, Conv | Linear)]


def with_modules(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that a module of the network has: weight layers and norms, in order."""
    return [layer for layer in layers if isinstance(layer, Conv | Linear | Norm)]


def placed(layers: Sequence[Layer], widths: Sequence[int], extents: tuple[int, ...]) -> Iterator[Placed]:
    """Each layer where it stands, from a map of ``extents`` with ``widths[0]`` channels.

    Raises ``ValueError``, which names the layer, where one does not fit the map before it.
    """
    reading = iter(widths)
    width = next(reading)
    for layer, after in zip(layers, maps(layers, extents), strict=True):
        inputs = width
        if isinstance(layer, Conv | Linear):
            width = next(reading)
        yield Placed(layer, inputs, width, after)


def maps(layers: Sequence[Layer], extents: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Extents after each layer. Raises ``ValueError``, which names the layer that does not fit."""
    for index, layer in enumerate(layers):
        try:
            extents = layer.after(extents)
        except ValueError as error:
            raise ValueError(f"layers[{index}]: {error}") from error
        yield extents


def free_widths(layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """The inner widths that can change, as positions in ``widths``; those that depthwise layers tie stand together.

    The first and the last width are the branch's ends: what is tied to one of them is fixed.
    """
    weighted = weight_layers(layers)
    classes: list[list[int]] = [[0]]
    for index, layer in enumerate(weighted, start=1):
        if isinstance(layer, Conv) and layer.depthwise:
            classes[-1].append(index)
        else:
            classes.append([index])
    return [tuple(each) for each in classes if each[0] != 0 and each[-1] != len(weighted)]


def _check_dimensions(extents: tuple[int, ...], sizes: tuple[int, ...], name: str = "kernel") -> None:
    if len(extents) != len(sizes):
        raise ValueError(f"{name} must have {len(extents)} dimensions, those of the map before it")


def _checked_size(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    if min(after) < 1:
        raise ValueError(f"a {'×'.join(map(str, before))} map is too small for this kernel")
    return after
