"""Weight layers in a graph, and what may stand between two of them: each with the axis that has the channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from collegium.search.describe.activations import activation_from
from collegium.search.describe.operators import (
    COPIES,
    NORMS,
    PERMUTATIONS,
    RESHAPES,
    SIZELESS,
    arguments,
    module_of,
    name_of,
    readers,
    shape_of,
)
from collegium.search.networks.families.network_layers import (
    Conv,
    Dropout,
    Layer,
    Linear,
    Norm,
    Pad,
    Pool,
    WeightedLayer,
)

_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
#: Operators that are weight layers where a parameter is their weight.
WEIGHT_LAYERS = {*_CONVOLUTIONS, "linear", "addmm", "mm", "matmul"}


@dataclass(frozen=True)
class WeightNode:
    """A convolution or linear layer in a graph, whose weight is a parameter.

    ``reads`` is the node of its input, ``channels`` the axis of its outputs' channels, and ``repeats`` the maps of one
    batch that a convolution is applied to, or the positions of a linear layer. ``inputs_first``: of a linear layer's
    weight the first axis is that of the inputs.
    """

    node: fx.Node
    layer: WeightedLayer
    reads: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    inputs: int
    outputs: int
    channels: int
    repeats: int
    inputs_first: bool = False

    def weight_shape(self, inputs: int, outputs: int) -> tuple[int, ...]:
        """The shape of its weight with so many inputs and outputs: of a depthwise one, one input for each output."""
        if not isinstance(self.layer, Conv):
            return (inputs, outputs) if self.inputs_first else (outputs, inputs)
        return outputs, 1 if self.layer.depthwise else inputs // self.layer.groups, *self.layer.kernel

    @property
    def parameters(self) -> list[fx.Node]:
        """Its weight, and its bias where it has one."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def extents(self) -> tuple[int, ...]:
        """Extents of the map that it reads."""
        shape = shape_of(self.reads)
        return shape[self.channels + 1 :] if isinstance(self.layer, Conv) else shape[1:-1]

    @property
    def flops(self) -> int:
        """Multiply–accumulates of the whole batch."""
        shape = shape_of(self.node)
        positions = math.prod(shape) // self.outputs
        return self.layer.weights(self.inputs, self.outputs) * positions


@dataclass(frozen=True)
class Step:
    """What reads a node between two weight layers: the node of its result, the channels' axis there, and its layer."""

    node: fx.Node
    channels: int
    layer: Layer | None = None
    parameters: tuple[fx.Node, ...] = ()


def weight_node(node: fx.Node, parameters: Mapping[fx.Node, str]) -> WeightNode | None:
    """The weight layer that a node is; None where it is none, or its weight is not a parameter as it stands."""
    name = name_of(node)
    if name in _CONVOLUTIONS:
        return _convolution(node, _CONVOLUTIONS[name], parameters)
    return _linear(node, name, parameters)


def _convolution(node: fx.Node, dimensions: int, parameters: Mapping[fx.Node, str]) -> WeightNode | None:
    given = arguments(node)
    reads, weight, bias = given["input"], given["weight"], given["bias"]
    if weight not in parameters or (bias is not None and bias not in parameters):
        return None
    kernel = shape_of(weight)[2:]
    dilation = sizes_of(given["dilation"], dimensions)
    padding = padding_of(given["padding"], kernel, dilation)
    if padding is None:
        return None
    outputs, groups = shape_of(weight)[0], int(given["groups"])
    inputs = shape_of(weight)[1] * groups
    layer = Conv(
        kind="conv",
        kernel=kernel,
        stride=sizes_of(given["stride"], dimensions),
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        depthwise=groups == inputs > 1,
    )
    channels = len(shape_of(node)) - dimensions - 1
    return WeightNode(node, layer, reads, weight, bias, inputs, outputs, channels, math.prod(shape_of(node)[:channels]))


def _linear(node: fx.Node, name: str, parameters: Mapping[fx.Node, str]) -> WeightNode | None:
    given = arguments(node)
    bias: Any = None
    if name == "linear":
        reads, weight, bias, swapped = given["input"], given["weight"], given["bias"], False
    elif name == "addmm" and (given["beta"], given["alpha"]) == (1, 1):
        reads, weight, bias, swapped = given["mat1"], given["mat2"], given["self"], True
    elif name in ("mm", "matmul"):
        reads, weight, swapped = given["self"], given["mat2" if name == "mm" else "other"], True
    else:
        return None
    weight, swapped = _untransposed(weight, swapped)
    shape = shape_of(weight)
    if weight not in parameters or len(shape) != 2 or (bias is not None and bias not in parameters):
        return None
    inputs, outputs = shape if swapped else reversed(shape)
    if bias is not None and shape_of(bias) != (outputs,):
        return None
    repeats = math.prod(shape_of(node)) // outputs
    layer = Linear(kind="linear", bias=bias is not None, positions=max(1, repeats))
    return WeightNode(node, layer, reads, weight, bias, inputs, outputs, len(shape_of(node)) - 1, repeats, swapped)


def _untransposed(weight: fx.Node, swapped: bool) -> tuple[fx.Node, bool]:
    """The parameter behind a transposed matrix."""
    if isinstance(weight, fx.Node) and name_of(weight) in ("t", "numpy_T", "mT", "transpose", "permute"):
        (source,) = weight.all_input_nodes
        if len(shape_of(source)) == 2 and len(weight.users) == 1 and shape_of(weight) == shape_of(source)[::-1]:
            moved = name_of(weight) != "permute" or list(weight.args[1]) in ([1, 0], [-1, -2])  # pyright: ignore[reportArgumentType]
            return (source, not swapped) if moved else (weight, swapped)
    return weight, swapped


def step_from(node: fx.Node, channels: int, parameters: Mapping[fx.Node, str]) -> Step | None:
    """What reads a node, where that leaves its channels channels; None where it does not."""
    activation = activation_from(node)
    if activation is not None:
        layer, last = activation
        return Step(last, channels, layer)
    reading = readers(node)
    if len(reading) != 1 or reading[0].op != "call_function":
        return None
    (reader,) = reading
    name = name_of(reader)
    if name in COPIES and shape_of(reader) == shape_of(node):
        return Step(reader, channels)
    if name in RESHAPES:
        axis = _axis_after(shape_of(node), shape_of(reader), channels)
        return None if axis is None or not _any_width(reader, axis, name) else Step(reader, axis)
    if name in PERMUTATIONS:
        return Step(reader, _permuted(reader, channels))
    if name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"):
        return Step(reader, channels, Dropout(kind="dropout", rate=float(arguments(reader)["p"])))
    if name in ("pad", "constant_pad_nd"):
        return _pad(reader, node, channels)
    return _norm(reader, name, node, channels, parameters) or _pool(reader, name, node, channels)


def _axis_after(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """The axis of ``after`` that is ``axis`` of ``before``, as numbers keep their order; None where it is divided."""
    outer, inner = math.prod(before[:axis]), math.prod(before[axis + 1 :])
    for index, size in enumerate(after):
        if size == before[axis] and math.prod(after[:index]) == outer and math.prod(after[index + 1 :]) == inner:
            return index
    return None


def _any_width(reader: fx.Node, axis: int, name: str) -> bool:
    """Whether a reshape goes on to work with other channels: it names no size, or is part of a layer's own module."""
    sizes = arguments(reader).get("shape", arguments(reader).get("size", ()))
    if name in SIZELESS or (len(sizes) > axis and sizes[axis] == -1):
        return True
    own = module_of(reader)
    beside = (reader.all_input_nodes[0], *readers(reader))
    return (
        any(_in_module(each, own) for each in beside) and sum(_in_module(each, own) for each in reader.graph.nodes) == 1
    )


def _in_module(node: fx.Node, module: str) -> bool:
    return name_of(node) in WEIGHT_LAYERS and module_of(node) == module


def _permuted(reader: fx.Node, axis: int) -> int:
    """Where an axis is after a permutation, seen on a tensor whose axes all have sizes of their own."""
    dimensions = len(shape_of(reader))
    marked = torch.empty([index + 2 for index in range(dimensions)], device="meta")
    assert callable(reader.target)
    moved = reader.target(marked, *reader.args[1:], **reader.kwargs)
    return list(moved.shape).index(axis + 2)


def _norm(reader: fx.Node, name: str, node: fx.Node, channels: int, parameters: Mapping[fx.Node, str]) -> Step | None:
    kind = NORMS.get(name)
    given = arguments(reader)
    if kind is None or given["input"] is not node:
        return None
    if kind in ("layer", "rms"):
        if len(given["normalized_shape"]) != 1 or channels != len(shape_of(node)) - 1:
            return None
    elif channels != 1:
        return None
    own = [given.get("weight"), given.get("bias")]
    if any(each is not None and each not in parameters for each in own):
        return None
    layer = Norm.model_validate(
        {
            "kind": "norm",
            "norm": kind,
            "scale": own[0] is not None,
            "shift": own[1] is not None,
            "groups": int(given["num_groups"]) if kind == "group" else 1,
        }
    )
    return Step(reader, channels, layer, tuple(each for each in own if each is not None))


def _pad(reader: fx.Node, node: fx.Node, channels: int) -> Step | None:
    """Padding of every axis behind the channels."""
    given = arguments(reader)
    sizes, dimensions = [int(size) for size in given["pad"]], len(shape_of(node)) - channels - 1
    mode = given.get("mode", "constant")
    mode = "other" if mode == "constant" and given.get("value") not in (None, 0) else mode
    if dimensions < 1 or len(sizes) > 2 * dimensions or min(sizes) < 0 or dimensions > 3:
        return None
    sizes += [0] * (2 * dimensions - len(sizes))
    # The last axis comes first.
    start, end = tuple(sizes[-2::-2]), tuple(sizes[-1::-2])
    return Step(reader, channels, Pad(kind="pad", start=start, end=end, mode=mode))


def _pool(reader: fx.Node, name: str, node: fx.Node, channels: int) -> Step | None:
    given = arguments(reader)
    dimensions = int(name[-2]) if name[-2:] in ("1d", "2d", "3d") else 0
    if dimensions and name.startswith(("max_pool", "avg_pool")):
        if channels != len(shape_of(node)) - dimensions - 1 or given.get("divisor_override") is not None:
            return None
        kernel = sizes_of(given["kernel_size"], dimensions)
        layer = Pool(
            kind="pool",
            function="max" if name.startswith("max") else "average",
            kernel=kernel,
            stride=sizes_of(given["stride"], dimensions) if given["stride"] else kernel,
            padding=sizes_of(given["padding"], dimensions),
            dilation=sizes_of(given.get("dilation", 1), dimensions),
            ceil_mode=bool(given["ceil_mode"]),
            count_padding=bool(given.get("count_include_pad", True)),
        )
        last = _first_of(reader)
        return None if last is None else Step(last, channels, layer)
    if dimensions and name.startswith("adaptive"):
        last = _first_of(reader)
        if last is None or channels != len(shape_of(node)) - dimensions - 1:
            return None
        function = "max" if "max" in name else "average"
        return Step(last, channels, Pool(kind="pool", function=function, output=shape_of(last)[channels + 1 :]))
    if name in ("mean", "amax", "max") and given.get("dim") not in (None, []):
        return _pool_over(reader, name, node, channels, given)
    return None


def _pool_over(reader: fx.Node, name: str, node: fx.Node, channels: int, given: Mapping[str, Any]) -> Step | None:
    """A mean or maximum over whole axes, none of which is that of the channels or of the batch."""
    dims = given["dim"] if isinstance(given["dim"], list | tuple) else [given["dim"]]
    count = len(shape_of(node))
    reduced = {int(dim) % count for dim in dims}
    last = _first_of(reader)
    if last is None or channels in reduced or 0 in reduced:
        return None
    axis = channels if given["keepdim"] else channels - sum(dim < channels for dim in reduced)
    shape = shape_of(last)
    if len(shape) < 2:
        return None
    output = tuple(size for index, size in enumerate(shape) if index not in (0, axis))
    return Step(last, axis, Pool(kind="pool", function="average" if name == "mean" else "max", output=output))


def _first_of(reader: fx.Node) -> fx.Node | None:
    """The result itself, or of several the first, where no other is read."""
    if not isinstance(reader.meta.get("val"), tuple | list):
        return reader
    taken = [user for user in reader.users if readers(user)]
    return taken[0] if len(taken) == 1 and taken[0].args[1] == 0 else None


def sizes_of(value: Any, dimensions: int) -> tuple[int, ...]:
    """One size for each dimension; a single one stands for all."""
    given = [value] if isinstance(value, int) else list(value)
    return tuple(int(each) for each in (given * dimensions if len(given) == 1 else given))


def padding_of(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...] | None:
    """Padding on either side; None where ``same`` needs more on one of them."""
    if value == "valid":
        return (0,) * len(kernel)
    if value == "same":
        both = [wide * (size - 1) for size, wide in zip(kernel, dilation, strict=True)]
        return None if any(each % 2 for each in both) else tuple(each // 2 for each in both)
    return sizes_of(value, len(kernel))
