"""Whether a description's graph is the network of its branches and counts; a lie is refused where it stands.

The counts follow from the graph. The layers of a branch must be those of the graph at its paths, with its activations
between them, and its inner widths must be free: the graph is regrouped once with other widths, and must then hold
together and have the counts that a search expects of that grouping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from collegium.search.errors import InvalidSpec, Location
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_chains import layer_widths, member_widths, searched, width_grains
from collegium.search.networks.families.network_layers import (
    ActivationLayer,
    Conv,
    Layer,
    Linear,
    Norm,
    Pool,
    placed,
    with_modules,
)
from collegium.search.networks.graph.infer import GraphError, Inferred, infer
from collegium.search.networks.graph.pointwise import GRID, NAMED, agree, region, values
from collegium.search.networks.graph.regroup import Change, regrouped_graph
from collegium.search.networks.graph.shapes import numbers
from collegium.search.networks.graph.spec import ConvLayer, Graph, GraphLayer, LinearLayer, NormLayer
from collegium.search.networks.network import Measure, StageGrouping

AT: Location = ("baseline", "graph")
Readers = tuple[Mapping[int, Sequence[int]], Mapping[str, int]]
#: Between two layers: values of a function on ``GRID``, None for one without a name, or what a pool takes.
Between = np.ndarray | tuple[Any, ...] | None


def check_graph(baseline: NetworkBaseline) -> Inferred | None:
    """The graph with its shapes and counts; None where there is none. Raises ``InvalidSpec`` with the field's path."""
    graph = baseline.graph
    if graph is None:
        return None
    try:
        found = infer(graph, baseline.input)
    except GraphError as error:
        raise InvalidSpec((*AT, *error.place), error.message) from None
    for name, declared, own in (
        ("parameters", baseline.parameters, found.parameters),
        ("flops", baseline.flops, found.flops),
        ("outputs", baseline.outputs, numbers(found.output)),
    ):
        if declared != own:
            raise InvalidSpec(("baseline", name), f"the graph has {own}")
    layers = {layer.path: layer for layer in graph.layers}
    readers = _readers(graph)
    for index, branch in enumerate(baseline.branches):
        if branch.splittable:
            _check_branch(branch, ("baseline", "branches", index), graph, layers, readers)
    _check_free(baseline, graph)
    return found


def _check_branch(
    branch: Branch, at: Location, graph: Graph, layers: Mapping[str, GraphLayer], readers: Readers
) -> None:
    places = list(placed(branch.layers, branch.widths, branch.input))
    expected = [place for place in places if isinstance(place.layer, Conv | Linear | Norm)]
    for row, paths in enumerate(branch.paths):
        for column, (place, path) in enumerate(zip(expected, paths, strict=True)):
            if not _is(layers.get(path), place.layer, place.inputs, place.outputs):
                raise InvalidSpec((*at, "paths", row, column), f"the graph has no such layer {path!r}")
        wrong = _other_function(branch.layers, paths, graph, readers)
        if wrong is not None:
            raise InvalidSpec((*at, "layers"), wrong)


def _is(found: GraphLayer | None, layer: Layer, inputs: int, outputs: int) -> bool:
    match layer, found:
        case Conv(), ConvLayer():
            same = all(getattr(layer, name) == getattr(found, name) for name in _GEOMETRY)
            same = same and not found.transposed
            return (
                same and (found.inputs, found.outputs) == (inputs, outputs) and (found.bias is not None) == layer.bias
            )
        case Linear(), LinearLayer():
            ends = (found.inputs, found.outputs, found.groups)
            return ends == (inputs, outputs, 1) and (found.bias is not None) == layer.bias
        case Norm(), NormLayer():
            affine = (found.weight is not None, found.bias is not None)
            return (found.norm, found.channels, found.groups, *affine) == (
                layer.norm,
                outputs,
                layer.groups,
                layer.scale,
                layer.shift,
            )
    return False


_GEOMETRY = ("kernel", "stride", "padding", "dilation", "groups")


def _readers(graph: Graph) -> Readers:
    """Which nodes read a value, by their places and its index; the places of nodes that apply a layer, by its path."""
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.nodes, start=1):
        for each in node.reads:
            readers.setdefault(each, []).append(index)
    at = {node.layer: index for index, node in enumerate(graph.nodes, start=1) if node.layer is not None}
    return readers, at


def _other_function(layers: Sequence[Layer], paths: Sequence[str], graph: Graph, readers: Readers) -> str | None:
    """What the graph has instead of a branch's activations and pools, and behind which layer; None where they agree.

    Functions are compared by their values, whatever operations they are written with. Those without a name are not.
    """
    of, at = readers
    for path, declared in _functions(layers, paths):
        found = _behind(at.get(path, 0), of, graph)
        if found is None:
            return f"behind {path!r} the graph has an operation that no branch has, or something else reads it"
        if len(found) != len(declared) or not all(map(_alike, found, declared)):
            return f"behind {path!r} the graph has another activation or pool"
    return None


def _alike(found: Between, declared: Between) -> bool:
    """Whether the graph has the function or the pool of the branch there."""
    if isinstance(found, np.ndarray) and isinstance(declared, np.ndarray):
        return agree(found, declared)
    return (declared is None and isinstance(found, np.ndarray)) or (type(found), found) == (type(declared), declared)


def _functions(layers: Sequence[Layer], paths: Sequence[str]) -> Iterator[tuple[str, list[Between]]]:
    """Each layer with a path that another one follows, with what is between them as ``_behind`` has it."""
    names = iter(paths)
    last: str = ""
    between: list[Between] = [GRID]
    for layer in layers:
        if isinstance(layer, ActivationLayer):
            before = between[-1]
            form = NAMED.get(layer.function)
            between[-1] = None if before is None or form is None else form(before, *layer.parameters)
        elif isinstance(layer, Pool):
            between += [_windows_of(layer.function, layer.model_dump()), GRID]
        elif layer in with_modules([layer]):
            if last:
                yield last, between
            last, between = next(names), [GRID]


#: Operations of a graph by the functions that they are as pools of a branch.
_POOLS = {
    "max_pool": "max", "adaptive_max_pool": "max", "amax": "max",
    "avg_pool": "average", "adaptive_avg_pool": "average", "mean": "average",
}  # fmt: skip


def _windows_of(function: str, sizes: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a pool takes of its windows, by the fields of a branch or the options of a graph.

    Adaptive pools, and those over whole axes, have their function alone: their extents are those of the graph.
    """
    if sizes.get("kernel") is None:
        return (function,)
    padding = tuple(sizes["padding"])
    counted = bool(sizes.get("count_padding", True)) if function == "average" and any(padding) else None
    wide = tuple(sizes["dilation"]) if function == "max" else None
    return function, tuple(sizes["kernel"]), tuple(sizes["stride"]), padding, wide, sizes["ceil_mode"], counted


def _behind(index: int, readers: Mapping[int, Sequence[int]], graph: Graph) -> list[Between] | None:
    """What is between a node and the next layer: values of a function, and further ones behind each pool.

    None where an operation stands there that is no function or pool of a branch, or something else reads it.
    """
    found: list[Between] = [GRID]
    while index:
        following = readers.get(index, ())
        node = graph.nodes[following[0] - 1] if len(following) == 1 else None
        if node is not None and node.op == "layer":
            return found
        if node is not None and node.op in _POOLS:
            found += [_windows_of(_POOLS[node.op], node.options), GRID]
            (index,) = following
        elif node is not None and node.op in _BETWEEN:
            (index,) = following
        else:
            written = region(index, readers, graph.nodes)
            if not written:
                return None
            before = found[-1]
            assert isinstance(before, np.ndarray)
            found[-1] = values(index, written, graph.nodes, before)
            index = written[-1]
    return None


#: What may stand between layers beside activations and pools.
_BETWEEN = {"reshape", "permute", "dropout", "feature_dropout", "pad"}


def _check_free(baseline: NetworkBaseline, graph: Graph) -> None:
    """Refuse branches whose inner widths something else reads, by giving them others."""
    pieces = [
        (index, piece) for index, branch in enumerate(baseline.branches) for piece in searched(branch) if piece.paths
    ]
    wrong = _not_free(baseline, graph, [piece for _, piece in pieces])
    if wrong is None:
        return
    while len(pieces) > 1:
        middle = len(pieces) // 2
        for half in (pieces[:middle], pieces[middle:]):
            own = _not_free(baseline, graph, [piece for _, piece in half])
            if own is not None:
                pieces, wrong = half, own
                break
        else:
            raise InvalidSpec(AT, wrong)  # they do not fit together
    raise InvalidSpec(("baseline", "branches", pieces[0][0]), wrong)


def _not_free(baseline: NetworkBaseline, graph: Graph, pieces: Sequence[Branch]) -> str | None:
    """Why the graph does not hold together where the branches have other widths, or has other counts than expected."""
    changes = [(piece.paths, _of_layers(piece, _trial(piece))) for piece in pieces]
    try:
        found = infer(regrouped_graph(graph, baseline.input, changes), baseline.input)
    except GraphError as error:
        return f"inner widths are not free in the graph: {error.message}"
    measures: tuple[Measure, ...] = ("parameters", "flops")
    for measure in measures:
        expected = getattr(baseline, measure) + sum(_growth(piece, _trial(piece), measure) for piece in pieces)
        if getattr(found, measure) != expected:
            return "inner widths are not free in the graph: other ones change the counts of other layers"
    return None


def _trial(piece: Branch) -> StageGrouping:
    """One member more, and wider ones that the groups of every norm and layer divide."""
    each = zip(member_widths(piece), width_grains(piece), strict=True)
    widths = tuple((width // grain + 1) * grain for width, grain in each)
    return StageGrouping(widths, piece.multiplicity + 1)


def _growth(piece: Branch, trial: StageGrouping, measure: Measure) -> int:
    """By how much the trial costs more than the branches as they are."""
    before = piece.multiplicity * member_cost(piece, member_widths(piece), measure)
    return piece.count * (trial.multiplicity * member_cost(piece, trial.widths, measure) - before)


def _of_layers(branch: Branch, grouping: StageGrouping) -> StageGrouping:
    """The grouping with a width for each layer."""
    return StageGrouping(layer_widths(branch, grouping.widths), grouping.multiplicity)


def member_cost(branch: Branch, widths: Sequence[int], measure: Measure) -> int:
    """What one member of these free widths adds to a branch: all but the biases of its last layer.

    Groups of inner layers are those of all members together.
    """
    members = branch.multiplicity
    layers = [_of_one(layer, members) for layer in branch.layers]
    inner = layer_widths(branch, widths)
    parts = list(placed(layers, (branch.widths[0], *inner, branch.widths[-1]), branch.input))
    last = parts[-1]
    shared = (
        last.outputs if measure == "parameters" and isinstance(last.layer, Conv | Linear) and last.layer.bias else 0
    )
    return sum(getattr(part, measure) for part in parts) - shared


def _of_one(layer: Layer, members: int) -> Layer:
    if isinstance(layer, Conv) and layer.groups > 1 and members > 1 and not layer.depthwise:
        return layer.model_copy(update={"groups": layer.groups // members})
    return layer


def graph_at(baseline: NetworkBaseline, changes: Sequence[Change]) -> Inferred:
    """The graph regrouped so, with its shapes and counts. Raises ``InvalidSpec`` where it cannot be."""
    assert baseline.graph is not None
    try:
        return infer(regrouped_graph(baseline.graph, baseline.input, changes), baseline.input)
    except GraphError as error:
        raise InvalidSpec((*AT, *error.place), error.message) from None
