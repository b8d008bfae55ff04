"""A chain of weight layers: the module whose neural tangent kernel a search studies.

A chain is the common form to which every baseline is lowered: an MLP, a bottleneck block, or any user-given
sequence of convolutions and dense layers. A width is either fixed (an integer) or free (an index into the
width vector n of one ensemble member).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, assert_never

from collegium.counted import counted
from collegium.search.networks.activation import Activation, ActivationName
from collegium.search.networks.pooling import Pooling


@dataclass(frozen=True)
class Free:
    """A free width: ``times`` that at position ``index`` of the width vector."""

    index: int
    times: int = 1


@dataclass(frozen=True)
class Axis:
    """A convolution's sizes along one axis of a map."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    more: int = 0

    @property
    def reach(self) -> int:
        """Positions from the first to the last that one unit reads."""
        return self.dilation * (self.kernel - 1) + 1


#: A size along the rows and along the columns of a map, and along its depth before them where it has one; one number
#: where those of rows and columns are equal, and there is no depth.
Sizes = int | tuple[int, int] | tuple[int, int, int]
#: Axes of a map, counted from its end.
DEPTH, ROWS, COLUMNS = -3, -2, -1


@dataclass(frozen=True)
class WeightLayer:
    """One convolution or dense layer and the activation after it, with its ``parameter`` where it has one.

    Sizes of a convolution are one number, or one along the rows and one along the columns, behind one along the depth
    in maps of three dimensions. A dense layer reads its whole input feature map, flattened; it has no ``kernel``,
    ``stride``, ``padding``, ``dilation`` or ``groups``. What depends on the kind is asked of the layer, or matched with
    every kind named, so that a further kind is refused until it is given a meaning there. ``more`` is what the padding
    at the ends is larger than that at the starts, or smaller where it is negative. ``depthwise`` is a convolution whose
    groups are the channels that it reads, however many these are; ``Chain.at`` sets them. ``pools`` follow in order,
    the first ``early`` of them before the activation and the others behind it. Raises ``ValueError`` for an unknown
    kind or activation.
    """

    kind: Literal["conv", "dense"]
    out: int | Free
    activation: ActivationName = "relu"
    kernel: Sizes = 1
    stride: Sizes = 1
    padding: Sizes = 0
    groups: int = 1
    parameter: float | None = None
    dilation: Sizes = 1
    depthwise: bool = False
    more: Sizes = 0
    pools: tuple[Pooling, ...] = ()
    early: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "dense"):
            raise ValueError(f"no layer is of kind {self.kind!r}; there are conv, dense")
        Activation(self.activation, self.parameter)
        geometry = (self.kernel, self.stride, self.padding, self.groups, self.dilation)
        if self.kind == "dense" and (geometry != (1, 1, 0, 1, 1) or self.depthwise):
            raise ValueError("a dense layer has no kernel, stride, padding, groups or dilation")

    @property
    def phi(self) -> Activation:
        """The activation after this layer."""
        return Activation(self.activation, self.parameter)

    def along(self, axis: int) -> Axis:
        """A convolution's sizes along an axis of a map: its ``DEPTH``, ``ROWS`` or ``COLUMNS``."""
        return self._axes[axis]

    @cached_property
    def _axes(self) -> tuple[Axis, ...]:
        sizes = (self.kernel, self.stride, self.padding, self.dilation, self.more)
        own = tuple(zip(sizes, (1, 1, 0, 1, 0), strict=True))
        return tuple(Axis(*(_along(size, axis, none) for size, none in own)) for axis in (DEPTH, ROWS, COLUMNS))

    def computed_size(self, size: int, axis: int = ROWS) -> int:
        """Positions along an axis that this layer computes, from the extent ``size`` before it."""
        match self.kind:
            case "dense":
                return 1
            case "conv":
                own = self.along(axis)
                return (size + 2 * own.padding + own.more - own.reach) // own.stride + 1
        assert_never(self.kind)

    def output_size(self, size: int, axis: int = ROWS) -> int:
        """Spatial extent along an axis after this layer and its pools, from the extent ``size`` before it."""
        found = self.computed_size(size, axis)
        for pool in self.pools:
            found = pool.axes[axis].output_size(found)
        return found

    def taps(self, *extents: int) -> int:
        """Positions of a map of these ``extents`` that one unit reads."""
        match self.kind:
            case "dense":
                return math.prod(extents)
            case "conv":
                return math.prod(self.along(axis).kernel for axis in range(-len(extents), 0))
        assert_never(self.kind)


def _along(size: Sizes, axis: int, none: int) -> int:
    """The entry of ``size`` along an axis; ``none`` along a depth that it does not speak of."""
    if isinstance(size, int):
        return none if axis == DEPTH else size
    return size[axis] if -axis <= len(size) else none


@dataclass(frozen=True)
class Chain:
    """Weight layers in order, applied to an input of shape ``(channels, height, width)``.

    With a ``depth`` maps have three dimensions, ``(channels, depth, height, width)``. ``names`` gives the free widths
    their names, in the order of the width vector. The last layer's activation is always ``linear``: its units are the
    outputs whose kernel is studied. With ``bias`` every unit (every channel of a convolution) adds a bias of its own:
    zero at initialization, and of unit rate, so that the kernel gains Σ (∂F/∂b)² over all of them while the function at
    initialization stays what it was. It may say so for each layer; ``biases`` does. Raises ``ValueError`` where it says
    so for another number of layers, and where the last layer is pooled or a pool has not one window for each axis.
    """

    channels: int
    height: int
    width: int
    layers: tuple[WeightLayer, ...]
    names: tuple[str, ...]
    bias: bool | tuple[bool, ...] = False
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.layers[-1].pools:
            raise ValueError("no pool follows the last layer: its units are the outputs")
        if any(len(pool.axes) != len(self.extents) for layer in self.layers for pool in layer.pools):
            raise ValueError(f"a pool has windows along each of the {len(self.extents)} axes of a map")
        if isinstance(self.bias, tuple):
            if len(self.bias) != len(self.layers):
                raise ValueError(f"'bias' is one for all layers or one for each of {len(self.layers)}: {self.bias}")
            if len(set(self.bias)) == 1:
                object.__setattr__(self, "bias", self.bias[0])

    @property
    def extents(self) -> tuple[int, ...]:
        """Extents of the input: ``(height, width)``, behind its depth where it has one."""
        flat = (self.height, self.width)
        return flat if self.depth is None else (self.depth, *flat)

    @property
    def pooled(self) -> bool:
        """Whether any pool stands between its layers."""
        return any(layer.pools for layer in self.layers)

    @property
    def biases(self) -> tuple[bool, ...]:
        """Of each layer, whether its units have biases."""
        return self.bias if isinstance(self.bias, tuple) else (self.bias,) * len(self.layers)

    @property
    def first_groups(self) -> int:
        """Groups of the first layer, each of which sees input channels, and so a Gram matrix, of its own."""
        return self.layers[0].groups

    @property
    def homogeneous(self) -> bool:
        """Whether every activation is positively homogeneous: r then does not depend on the size of the inputs."""
        return all(layer.phi.homogeneous for layer in self.layers)

    @property
    def gains(self) -> tuple[float, ...]:
        """Variance gain g of each layer, whose weights have the variance g / fan-in: 2 before a ReLU.

        What an activation takes off a signal is made up for in the layer before or after it, see ``activation``.
        """
        before = [layer.phi.gain_before for layer in self.layers]
        after = [1.0, *(layer.phi.gain_after for layer in self.layers[:-1])]
        return tuple(one * other for one, other in zip(before, after, strict=True))

    @cached_property
    def width_grains(self) -> tuple[int, ...]:
        """What each free width must be a multiple of, so that the groups of the layers below and above divide it."""
        grains = [1] * len(self.names)
        for below, layer in zip(self.layers, (*self.layers[1:], None), strict=True):
            if isinstance(below.out, Free):
                for groups in (1 if below.depthwise else below.groups, 1 if layer is None else layer.groups):
                    own = groups // math.gcd(groups, below.out.times)
                    grains[below.out.index] = math.lcm(grains[below.out.index], own)
        return tuple(grains)

    def at(self, widths: Sequence[int]) -> Chain:
        """The chain with every free width replaced by its value in ``widths``."""
        if len(widths) != len(self.names):
            raise ValueError(f"expected {counted(len(self.names), 'width')} {self.names}, got {len(widths)}")
        layers: list[WeightLayer] = []
        channels = self.channels
        for layer in self.layers:
            groups = channels if layer.depthwise else layer.groups
            channels = self._value(layer.out, widths)
            layers.append(replace(layer, out=channels, groups=groups))
        return replace(self, layers=tuple(layers), names=())

    @staticmethod
    def _value(out: int | Free, widths: Sequence[int]) -> int:
        return out.times * int(widths[out.index]) if isinstance(out, Free) else out

    def shapes(self, widths: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes ``(channels, height, width)`` before each layer and after the last one; behind pools where any are.

        ``(channels, depth, height, width)`` where maps have a depth.
        """
        shapes = [(self.channels, *self.extents)]
        for layer in self.layers:
            after = _each_axis(layer.output_size, shapes[-1][1:])
            shapes.append((self._value(layer.out, widths), *after))
        return shapes

    def fan_ins(self, widths: Sequence[int]) -> list[int]:
        """Inputs that one unit of each layer sums over, at the given width vector."""
        fans = []
        for layer, (channels, *extents) in zip(self.layers, self.shapes(widths), strict=False):
            groups = channels if layer.depthwise else layer.groups
            fans.append(channels * layer.taps(*extents) // groups)
        return fans

    def parameters(self, widths: Sequence[int]) -> int:
        """Weights of one member, and its biases where it has any: Σ_l out_l · (fan_in_l + 1)."""
        outs = [shape[0] for shape in self.shapes(widths)[1:]]
        each = zip(outs, self.fan_ins(widths), self.biases, strict=True)
        return sum(out * (fan + bias) for out, fan, bias in each)

    def flops(self, widths: Sequence[int]) -> int:
        """Multiply–accumulate operations of one member for one input."""
        shapes = self.shapes(widths)
        total = 0
        for layer, fan, before, after in zip(self.layers, self.fan_ins(widths), shapes, shapes[1:], strict=False):
            total += after[0] * fan * math.prod(_each_axis(layer.computed_size, before[1:]))
        return total


def _each_axis(size: Callable[[int, int], int], extents: Sequence[int]) -> tuple[int, ...]:
    """``size(extent, axis)`` of each extent, their axes counted from the end."""
    return tuple(size(extent, axis) for axis, extent in enumerate(extents, start=-len(extents)))


def ensemble_chain(chain: Chain, widths: Sequence[int], multiplicity: int) -> Chain | None:
    """The chain of m members of the given widths; it has no free widths.

    Its hidden biases are the members' own. Its outputs have one bias, whose ∂F/∂b is 1, and so have the ensemble's: a
    member with an output bias of its own has K_j + 1, and the mean of these over the members is the mean of the K_j
    plus 1 all the same. So Var(K) = Var(K_j) / m holds for the ensemble as it is built.

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


def _as_convolution(layer: WeightLayer, shape: tuple[int, ...]) -> WeightLayer | None:
    match layer.kind:
        case "conv":
            return layer
        case "dense":
            _, *extents = shape
            square = len(extents) == 2 and extents[0] == extents[1]
            return replace(layer, kind="conv", kernel=extents[0]) if square else None
    assert_never(layer.kind)


def _fixed(out: object) -> int:
    assert isinstance(out, int)
    return out
