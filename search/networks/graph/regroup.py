"""A graph with some of its branches regrouped: m members in the place of one, by arithmetic alone.

The same rules as ``collegium.regroup`` has for a module: the first layer of a branch feeds all members, the layers
between are grouped, and the last one sums the members. Weights keep their law at the new fan-in, which for the last
layer is that of all members (Littwin et al. 2020, Eq. 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from collegium.search.networks.graph.infer import GraphError, infer, parameters_of
from collegium.search.networks.graph.shapes import Shape, numbers
from collegium.search.networks.graph.spec import (
    ConvLayer,
    Graph,
    GraphLayer,
    Law,
    LinearLayer,
    Node,
    NormLayer,
    ParameterLayer,
)
from collegium.search.networks.network import StageGrouping, member_groups

#: Paths of the layers of each occurrence of a branch, and the grouping of them.
Change = tuple[Sequence[Sequence[str]], StageGrouping]


def regrouped_graph(graph: Graph, sample: Sequence[int], changes: Sequence[Change]) -> Graph:
    """The graph with every branch of ``changes`` as m members of these inner widths.

    Raises ``GraphError`` where a path is not a layer that a branch has, or the graph does not hold together at other
    widths, as where something else reads an inner one.
    """
    places = {layer.path: index for index, layer in enumerate(graph.layers)}
    layers = list(graph.layers)
    for occurrences, grouping in changes:
        for paths in occurrences:
            _regroup_one(layers, places, paths, grouping)
    _follow_tied(layers, graph.tied)
    return _reshaped(graph, graph.model_copy(update={"layers": tuple(layers)}), sample)


def _follow_tied(layers: list[GraphLayer], tied: Sequence[tuple[str, str]]) -> None:
    """Second names of a layer's parameters, which are parameters of no layer: as large as these, by the same law."""
    bare = {layer.path: index for index, layer in enumerate(layers) if isinstance(layer, ParameterLayer)}
    owners = {layer.path: layer for layer in layers if isinstance(layer, ConvLayer | LinearLayer | NormLayer)}
    for pair in tied:
        for one, other in (pair, pair[::-1]):
            path, _, name = other.rpartition(".")
            if one in bare and path in owners and name in ("weight", "bias"):
                update = {"shape": parameters_of(owners[path])[other], "weight": getattr(owners[path], name)}
                layers[bare[one]] = layers[bare[one]].model_copy(update=update)


def _regroup_one(
    layers: list[GraphLayer], places: Mapping[str, int], paths: Sequence[str], grouping: StageGrouping
) -> None:
    m, widths = grouping.multiplicity, grouping.widths
    own = [_layer(layers, places, path) for path in paths]
    last = sum(isinstance(layer, ConvLayer | LinearLayer) for _, layer in own) - 1
    if last != len(widths):
        raise GraphError(("layers",), f"{paths[0]} … has {last + 1} weight layers where {len(widths) + 1} are expected")
    at, width, members = -1, 0, _members([layer for _, layer in own])
    for place, layer in own:
        if isinstance(layer, NormLayer):
            if at < last:
                layers[place] = _norm(layer, width, m, members)
                if width % layers[place].groups:  # type: ignore[union-attr]
                    raise GraphError(("layers", place), f"{layer.path!r} cannot have its groups in {width} channels")
            continue
        at += 1
        inputs = layer.inputs if at == 0 else width
        width = layer.outputs if at == last else m * widths[at]
        groups = m * layer.groups // members if 0 < at < last else 1
        if _depthwise(layer):
            groups = inputs  # a depthwise layer's channels stay apart
        if width % groups or inputs % groups:
            raise GraphError(("layers", place), f"{layer.path!r} cannot have {groups} groups of {inputs} → {width}")
        layers[place] = _resized(layer, inputs, width, groups)


def _members(own: Sequence[GraphLayer]) -> int:
    """Members that a branch has already: what the groups of its inner layers have in common."""
    inner = [layer for layer in own if isinstance(layer, ConvLayer | LinearLayer)][1:-1]
    return math.gcd(*(layer.groups for layer in inner if not _depthwise(layer))) or 1


def _depthwise(layer: GraphLayer) -> bool:
    return isinstance(layer, ConvLayer) and layer.groups == layer.inputs > 1


def _layer(
    layers: Sequence[GraphLayer], places: Mapping[str, int], path: str
) -> tuple[int, ConvLayer | LinearLayer | NormLayer]:
    place = places.get(path)
    layer = None if place is None else layers[place]
    if place is None or not isinstance(layer, ConvLayer | LinearLayer | NormLayer):
        raise GraphError(("layers",), f"a branch names {path!r}, which is no layer of the graph")
    if isinstance(layer, ConvLayer) and layer.transposed:
        raise GraphError(("layers", place), "a transposed convolution is no layer of a branch")
    return place, layer


def _resized(layer: ConvLayer | LinearLayer, inputs: int, outputs: int, groups: int) -> ConvLayer | LinearLayer:
    growth = math.sqrt((layer.inputs // layer.groups) / (inputs // groups))
    return layer.model_copy(
        update={
            "inputs": inputs,
            "outputs": outputs,
            "groups": groups,
            "weight": _scaled(layer.weight, growth),
            "bias": None if layer.bias is None else _scaled(layer.bias, growth),
        }
    )


def _scaled(law: Law, growth: float) -> Law:
    return law if law.kind == "constant" else law.model_copy(update={"value": law.value * growth})


def _norm(layer: NormLayer, width: int, members: int, before: int) -> NormLayer:
    grouped = layer.norm in ("group", "layer", "rms")
    groups = member_groups(layer.groups, before) * members if grouped else 1
    changed: dict[str, Any] = {"channels": width, "groups": groups}
    for name, start in (("weight", 1.0), ("bias", 0.0)):
        law = getattr(layer, name)
        if law is not None and law.kind != "constant":
            changed[name] = Law(kind="constant", value=start)
    return layer.model_copy(update=changed)


def _reshaped(before: Graph, after: Graph, sample: Sequence[int]) -> Graph:
    """Reshapes of a width that has changed, with the new one at its place."""
    old = infer(before, sample).shapes

    def mend(index: int, node: Node, reads: Sequence[Shape]) -> Node:
        if node.op != "reshape" or reads[0] == old[node.reads[0]]:
            return node
        wanted = _other_shape(old[node.reads[0]], reads[0], old[index + 1])
        return node if wanted is None else node.model_copy(update={"options": {"shape": wanted}})

    return infer(after, sample, mend).graph


def _other_shape(before: Shape, now: Shape, result: Shape) -> Shape | None:
    """The shape of a reshape's result where one axis of what it reads has another size; None where it is divided."""
    apart = [axis for axis, (one, other) in enumerate(zip(before, now, strict=True)) if one != other]
    if len(apart) != 1:
        return None
    (axis,) = apart
    around = numbers(before[:axis]), numbers(before[axis + 1 :])
    for index, size in enumerate(result):
        if size == before[axis] and around == (numbers(result[:index]), numbers(result[index + 1 :])):
            return (*result[:index], now[axis], *result[index + 1 :])
    return None
