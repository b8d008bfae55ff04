"""The shapes and costs of a graph by arithmetic alone: what does not hold together is refused where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collegium.search.networks.footprint import Footprint
from collegium.search.networks.graph.content import NUMBERS, ConstantLayer, Content, of_numbers
from collegium.search.networks.graph.operations import (
    CONSTANT,
    INPUT,
    LAYER,
    OPERATIONS,
    PARAMETER,
    check_options,
)
from collegium.search.networks.graph.shapes import Shape, checked, numbers, window_extents
from collegium.search.networks.graph.spec import (
    ConvLayer,
    Graph,
    GraphLayer,
    LinearLayer,
    Node,
    NormLayer,
    ParameterLayer,
    RecurrentLayer,
)

Place = tuple[str | int, ...]
Mend = Callable[[int, Node, Sequence[Shape]], Node]


class GraphError(ValueError):
    """What is wrong with a graph, and the ``place`` of it: ``("nodes", 3)`` or ``("layers", 0)``."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place, self.message = place, message


@dataclass(frozen=True)
class Inferred:
    """A graph with the ``shapes`` of its input and of each node's result, and what it costs for one sample.

    ``contents`` are what each of them holds.
    """

    graph: Graph
    shapes: tuple[Shape, ...]
    parameters: int
    flops: int
    contents: tuple[Content, ...]

    @property
    def output(self) -> Shape:
        """The shape of the network's output, with the batch as -1."""
        return self.shapes[-1]

    @property
    def features(self) -> int:
        """Numbers that the forward pass of one sample keeps for the backward pass."""
        return sum(part.kept for part in self.footprints())

    def footprints(self) -> tuple[Footprint, ...]:
        """The memory of each node in order; a view of another node's numbers has none of its own."""
        return _footprints(self)


def infer(graph: Graph, sample: Sequence[int], mend: Mend | None = None) -> Inferred:
    """Every shape of a graph that reads samples of this shape. Raises ``GraphError``.

    ``mend`` is given each node with its index and the shapes that it reads, and returns the node that is put there.

    >>> from collegium.search.networks.graph.spec import Graph
    >>> fill = {"kind": "normal", "value": 0.1}
    >>> head = {"kind": "linear", "path": "head", "inputs": 4, "outputs": 2, "weight": fill}
    >>> graph = Graph.model_validate({"layers": [head], "nodes": [{"op": "layer", "layer": "head", "reads": [0]}]})
    >>> found = infer(graph, (4,))
    >>> found.output, found.parameters, found.flops
    ((-1, 2), 8, 8)
    >>> infer(graph, (5,))
    Traceback (most recent call last):
    collegium.search.networks.graph.infer.GraphError: 'head' reads 4 channels, and what it reads has the shape (-1, 5)
    """
    layers = {layer.path: layer for layer in graph.layers}
    shapes: list[Shape] = [checked((-1, *sample))]
    contents = [_first(graph, tuple(sample))]
    flops = 0
    nodes: list[Node] = []
    for index, node in enumerate(graph.nodes):
        try:
            if max(node.reads, default=0) > index:
                raise ValueError(f"it reads {max(node.reads)}, and {index} is the last one before it")
            reads = [shapes[each] for each in node.reads]
            nodes.append(node if mend is None else mend(index, node, reads))
            shape, own = _result(nodes[-1], reads, layers, graph)
            shapes.append(checked(shape))
            contents.append(_content(nodes[-1], [contents[each] for each in node.reads], reads, layers, graph))
            flops += own
        except ValueError as error:
            raise GraphError(("nodes", index), str(error)) from None
    if contents[-1] != NUMBERS:
        raise GraphError(("nodes", len(graph.nodes) - 1), f"the output must be numbers, and has {contents[-1].name}s")
    if shapes[-1][:1] != (-1,):
        raise GraphError(("nodes", len(graph.nodes) - 1), "the output must have the batch as its first axis")
    found = graph if mend is None else graph.model_copy(update={"nodes": tuple(nodes)})
    return Inferred(found, tuple(shapes), _parameters(graph), flops, tuple(contents))


def _first(graph: Graph, sample: Shape) -> Content:
    """What the first input holds."""
    if not graph.inputs:
        return NUMBERS
    if graph.inputs[0].shape != sample:
        raise GraphError(("inputs", 0), f"the shape must be that of the baseline's input, {sample}")
    return graph.inputs[0].holds


def _content(
    node: Node, contents: list[Content], reads: list[Shape], layers: Mapping[str, GraphLayer], graph: Graph
) -> Content:
    if node.op == INPUT:
        return graph.inputs[_place_of(node, graph)].holds
    if node.op == CONSTANT:
        layer = layers[str(node.layer)]
        assert isinstance(layer, ConstantLayer)
        return layer.holds
    rule = OPERATIONS[node.op].content if node.op in OPERATIONS else of_numbers
    return rule(contents, reads, node.options)


def _place_of(node: Node, graph: Graph) -> int:
    """The place of another input among them. Raises ``ValueError``."""
    check_options(node.options, {"place": "integer"})
    place = node.options["place"]
    if not isinstance(place, int) or not 1 <= place < len(graph.inputs):
        raise ValueError(f"the option 'place' must be from 1 to {len(graph.inputs) - 1}, that of another input")
    return place


def _result(node: Node, reads: list[Shape], layers: Mapping[str, GraphLayer], graph: Graph) -> tuple[Shape, int]:
    if (node.layer is not None) != (node.op in (LAYER, PARAMETER, CONSTANT)):
        raise ValueError("a 'layer' is named where the op is 'layer', 'parameter' or 'constant', and there alone")
    if node.op == INPUT:
        _check_count(reads, (0, 0))
        return (-1, *graph.inputs[_place_of(node, graph)].shape), 0
    if node.layer is not None:
        if node.layer not in layers:
            raise ValueError(f"there is no layer {node.layer!r}")
        layer = layers[node.layer]
        check_options(node.options, {})
        for kind, op, name in ((ParameterLayer, PARAMETER, "parameter"), (ConstantLayer, CONSTANT, "constant")):
            if isinstance(layer, kind) != (node.op == op):
                raise ValueError(f"{node.layer!r} is {'a' if isinstance(layer, kind) else 'no'} {name}")
        most = 3 if isinstance(layer, RecurrentLayer) else 1
        _check_count(reads, (1, most) if node.op == LAYER else (0, 0))
        return layer_result(layer, reads)
    if node.op not in OPERATIONS:
        raise ValueError(f"there is no operation {node.op!r}")
    operation = OPERATIONS[node.op]
    _check_count(reads, operation.reads)
    check_options(node.options, operation.options, operation.optional)
    shape = operation.shape(reads, node.options)
    return shape, operation.flops(reads, shape)


def _check_count(reads: Sequence[Any], expected: tuple[int, int]) -> None:
    least, most = expected
    if not least <= len(reads) <= most:
        count = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"it reads {len(reads)} tensors where {count} are expected")


def layer_result(layer: GraphLayer, reads: Sequence[Shape]) -> tuple[Shape, int]:
    """The shape that a layer gives, and its multiply–accumulates for one sample. Raises ``ValueError``."""
    match layer:
        case ParameterLayer() | ConstantLayer():
            return layer.shape, 0
        case ConvLayer():
            shape = _convolved(layer, reads[0])
            fan_in = layer.inputs // layer.groups * math.prod(layer.kernel)
            positions = numbers(reads[0] if layer.transposed else shape)
            per_position = layer.outputs // layer.groups * math.prod(layer.kernel) if layer.transposed else fan_in
            return shape, positions * per_position
        case LinearLayer():
            _check_channels(layer.path, reads[0], -1, layer.inputs)
            return (*reads[0][:-1], layer.outputs), numbers(reads[0]) * (layer.outputs // layer.groups)
        case NormLayer():
            _check_channels(layer.path, reads[0], -1 if layer.norm in ("layer", "rms") else 1, layer.channels)
            _check_normed(layer, reads[0])
            return reads[0], 0
        case RecurrentLayer():
            return layer.result(*reads)


def _check_channels(path: str, shape: Shape, axis: int, channels: int) -> None:
    if len(shape) < 2 or shape[axis] != channels:
        raise ValueError(f"{path!r} reads {channels} channels, and what it reads has the shape {shape}")


def _check_normed(layer: NormLayer, shape: Shape) -> None:
    counts = {"batch": layer.dimensions + 2, "instance": layer.dimensions + 2}
    without_map = layer.norm == "batch" and layer.dimensions == 1 and len(shape) == 2
    if layer.norm in counts and len(shape) != counts[layer.norm] and not without_map:
        raise ValueError(f"{layer.path!r} reads maps with {layer.dimensions} dimensions, not {shape}")
    if layer.norm in ("batch", "instance", "group") and shape[0] >= 0:
        raise ValueError(f"{layer.path!r} reads a batch, and its first axis is none in {shape}")


def _convolved(layer: ConvLayer, shape: Shape) -> Shape:
    dimensions = len(layer.kernel)
    if len(shape) != dimensions + 2 or min(shape[1:]) < 0:
        raise ValueError(f"{layer.path!r} reads a batch of maps with {dimensions} dimensions, not {shape}")
    _check_channels(layer.path, shape, 1, layer.inputs)
    if not layer.transposed:
        extents = window_extents(shape[2:], layer.kernel, layer.stride, layer.padding, layer.dilation)
        return (shape[0], layer.outputs, *extents)
    sizes = zip(
        shape[2:],
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.output_padding or (),
        strict=True,
    )
    found = tuple((size - 1) * step - 2 * pad + wide * (k - 1) + more + 1 for size, k, step, pad, wide, more in sizes)
    if min(found) < 1:
        raise ValueError(f"nothing is left of a map of {shape}")
    return (shape[0], layer.outputs, *found)


def parameters_of(layer: GraphLayer) -> dict[str, Shape]:
    """The trainable tensors of a layer by their full names, with their shapes."""
    found: dict[str, Shape] = {}
    match layer:
        case ConstantLayer():
            return {}
        case ParameterLayer():
            return {layer.path: layer.shape}
        case RecurrentLayer():
            return {f"{layer.path}.{name}": shape for name, shape in layer.shapes()}
        case ConvLayer():
            ends = (layer.inputs, layer.outputs) if layer.transposed else (layer.outputs, layer.inputs)
            found["weight"] = (ends[0], ends[1] // layer.groups, *layer.kernel)
            width = layer.outputs
        case LinearLayer():
            whole = (layer.outputs // layer.groups, layer.inputs // layer.groups)
            found["weight"] = whole if layer.groups == 1 else (layer.groups, *whole)
            width = layer.outputs
        case NormLayer():
            if layer.weight is not None:
                found["weight"] = (layer.channels,)
            width = layer.channels
    if layer.bias is not None:
        found["bias"] = (width,)
    return {f"{layer.path}.{name}": shape for name, shape in found.items()}


def _parameters(graph: Graph) -> int:
    """Trainable numbers, tied ones once."""
    shapes = {name: shape for layer in graph.layers for name, shape in parameters_of(layer).items()}
    seconds: set[str] = set()
    for index, (first, second) in enumerate(graph.tied):
        if first not in shapes or second not in shapes or first == second or second in seconds or first in seconds:
            raise GraphError(("tied", index), "two different parameters of the layers are expected, each tied once")
        if shapes[first] != shapes[second]:
            raise GraphError(("tied", index), f"{shapes[first]} and {shapes[second]} are not of one shape")
        seconds.add(second)
    return sum(math.prod(shape) for name, shape in shapes.items() if name not in seconds)


def _buffers(layer: GraphLayer) -> int:
    if isinstance(layer, ConstantLayer):
        return math.prod(layer.shape)
    return 2 * layer.channels if isinstance(layer, NormLayer) and layer.tracked and layer.norm == "batch" else 0


def _kept_inside(layer: GraphLayer | None, reads: Sequence[Shape]) -> int:
    """Numbers of one sample that a layer keeps for its gradients beside its result."""
    return layer.kept(reads[0]) if isinstance(layer, RecurrentLayer) else 0


def _is_view(node: Node) -> bool:
    return node.op in OPERATIONS and OPERATIONS[node.op].view


def _footprints(found: Inferred) -> tuple[Footprint, ...]:
    """What lives at each node: every tensor from where it is made to where it, or a view of it, is read last."""
    nodes, shapes = found.graph.nodes, found.shapes
    layers = {layer.path: layer for layer in found.graph.layers}
    owner = list(range(len(shapes)))
    last = list(range(len(shapes)))
    for index, node in enumerate(nodes, start=1):
        if _is_view(node):
            owner[index] = owner[node.reads[0]]
        for each in node.reads:
            last[owner[each]] = index
    last[owner[-1]] = len(nodes)
    sizes = [numbers(shape) if owner[index] == index else 0 for index, shape in enumerate(shapes)]
    ending: list[int] = [0] * (len(nodes) + 1)
    for index, end in enumerate(last):
        ending[end] += sizes[index]
    counted: set[str] = set()
    tied = {second for _, second in found.graph.tied}
    live, parts = sizes[0], []
    for index, node in enumerate(nodes, start=1):
        own = 0 if node.op in (PARAMETER, CONSTANT) else sizes[index]
        live += own
        weights = buffers = 0
        if node.layer is not None and node.layer not in counted:
            counted.add(node.layer)
            weights = sum(
                math.prod(shape) for name, shape in parameters_of(layers[node.layer]).items() if name not in tied
            )
            buffers = _buffers(layers[node.layer])
        first = sizes[0] if index == 1 else 0
        inner = _kept_inside(layers.get(str(node.layer)), [shapes[each] for each in node.reads])
        where = 8 * own if node.op in ("max_pool", "adaptive_max_pool") else 0
        parts.append(
            Footprint(
                weights, buffers=buffers, kept=own + first + inner, live=live, transient=live + inner, index_bytes=where
            )
        )
        live -= ending[index] - (sizes[index] if node.op in (PARAMETER, CONSTANT) and last[index] == index else 0)
        live = max(live, 0)
    unread = sum(
        math.prod(shape)
        for path, layer in layers.items()
        if path not in counted
        for name, shape in parameters_of(layer).items()
        if name not in tied
    )
    parts[-1] = Footprint(
        parts[-1].parameters + unread,
        buffers=parts[-1].buffers,
        kept=parts[-1].kept,
        live=parts[-1].live,
        transient=parts[-1].transient,
        index_bytes=parts[-1].index_bytes,
    )
    return tuple(parts)
