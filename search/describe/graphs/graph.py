"""A traced module as a graph of known layers and operations, from which it can be built without its code.

The module is traced twice, with batches of two sizes. A size that grows with the batch is written as a multiple of it;
anything else that differs between both depends on the batch in another way, and has no such graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from collegium.search.describe.graphs.builder import Builder, Converter
from collegium.search.describe.graphs.constants import Constants, content_of
from collegium.search.describe.graphs.elementwise import ELEMENTWISE
from collegium.search.describe.graphs.indexed import INDEXED, rows_of_padding
from collegium.search.describe.graphs.maps import OF_MAPS
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.graphs.rearranged import REARRANGED
from collegium.search.describe.graphs.recurrent import RECURRENT_LAYERS
from collegium.search.describe.graphs.weights import WEIGHTED
from collegium.search.describe.graphs.written import WRITTEN, writes, written
from collegium.search.describe.operators import arguments, name_of
from collegium.search.describe.trace import Piece
from collegium.search.errors import readable
from collegium.search.networks.graph.content import UNBOUNDED
from collegium.search.networks.graph.infer import GraphError, infer
from collegium.search.networks.graph.spec import Graph

#: The operators that are known, by name.
CONVERTERS: Mapping[str, Converter] = {
    **ELEMENTWISE, **REARRANGED, **OF_MAPS, **WEIGHTED, **INDEXED, **RECURRENT_LAYERS, **WRITTEN,
}  # fmt: skip
#: Those that read, or give, integers and booleans.
_OF_ANY = {*REARRANGED, *INDEXED, *WRITTEN, "scaled_dot_product_attention"}
#: Those that read integers as well as numbers, and not both.
_OF_INTEGERS = {"add", "mul", "cumsum"}
#: What modules and parameters may be called.
_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class NoGraph(Exception):
    """Why a module has no graph of known layers."""


def graph_of(
    model: nn.Module,
    piece: Piece,
    twin: Piece,
    batches: tuple[int, int],
    canonical: Mapping[str, str],
    sample: Sequence[int],
) -> Graph:
    """The graph of a module from its traces with two batches of samples. Raises ``NoGraph`` with what stops it."""
    names = dict(model.named_parameters(remove_duplicate=False))
    odd = next((name for name in names if not set(name) <= _NAME), None)
    if odd is not None:
        raise NoGraph(f"the parameter {odd!r} has a name that a description cannot hold")
    pairs = _pairs(piece, twin)
    leaves = {node: model.get_buffer(path) for node, path in piece.buffers.items()} | piece.constants
    builder = Builder(
        piece,
        pairs,
        batches,
        model,
        canonical,
        names,
        Constants(pairs, leaves),
        lambda node: _convert_one(builder, node),
        zero_rows=rows_of_padding(piece, model, canonical),
    )
    builder.saved = [name for name in model.state_dict() if name not in names]
    last, inputs = _convert(builder)
    try:
        _add_unread(builder)
        pruned, results = _pruned(builder, last)
        _add_buffers(builder)
    except ValueError as error:
        raise NoGraph(str(error)) from None
    made = {"layers": _in_order(builder), "nodes": tuple(pruned), "tied": _tied(builder)}
    made |= _inputs(builder, inputs, _named_in_order(model))
    try:
        graph = Graph.model_validate(made)
        shapes = infer(graph, sample).shapes[1:]
    except ValidationError as error:
        wrong = error.errors()[0]
        raise NoGraph(f"{readable(wrong['loc'])}: {wrong['msg']}") from None
    except GraphError as error:
        raise NoGraph(f"{readable(error.place)}: {error.message}") from None
    apart = next((index for index, pair in enumerate(zip(shapes, results, strict=True)) if pair[0] != pair[1]), None)
    if apart is not None:
        raise NoGraph(f"{graph.nodes[apart].op!r} gives {results[apart]} in the module, and {shapes[apart]} in a graph")
    return graph


def alike(piece: Piece, twin: Piece) -> bool:
    """Whether two traces have the same operators in the same order."""
    one, two = ([(each.op, name_of(each)) for each in trace.graph.nodes] for trace in (piece, twin))
    return one == two


def _pairs(piece: Piece, twin: Piece) -> dict[fx.Node, fx.Node]:
    """The nodes of one trace with those of the other."""
    if not alike(piece, twin):
        raise NoGraph("its operations depend on the size of the batch")
    return dict(zip(piece.graph.nodes, twin.graph.nodes, strict=True))


def _convert(builder: Builder) -> tuple[int, list[fx.Node]]:
    """Every node in order; the index of the output's value, and the inputs.

    Of several outputs it is the first one, where the others are met on the way to it.
    """
    piece, inputs = builder.piece, []
    for node in piece.graph.nodes:
        if node.op == "placeholder" and node not in piece.parameters and node not in builder.constants.leaves:
            if isinstance(node.meta.get("val"), Tensor):
                inputs.append(node)
                builder.values[node] = _input(builder, node, len(inputs) - 1)
        elif not builder.constants.run(node) and node.op == "call_function":
            _convert_one(builder, node)
    (returned,) = (node for node in piece.graph.nodes if node.op == "output")
    outputs = [each for each in returned.args[0] if isinstance(each, fx.Node)]
    if not outputs or not set(outputs[1:]) <= _ahead(outputs[0]):
        raise NoGraph(f"it gives {len(outputs)} tensors, and a network of one is expected")
    try:
        return builder.value(outputs[0]), inputs
    except Missing as missing:
        raise NoGraph(str(missing)) from None


def _ahead(node: fx.Node) -> set[fx.Node]:
    """Every node that this one depends on."""
    found, pending = set(), [node]
    while pending:
        new = set(pending.pop().all_input_nodes) - found
        found |= new
        pending += new
    return found


def _input(builder: Builder, node: fx.Node, place: int) -> Any:
    """The value of an input, the first of which has the index 0."""
    if place == 0:
        return 0
    try:
        return builder.emit("input", [], builder.shape(node), place=place)
    except Missing as missing:
        return Missing(f"the input {node.name!r}: {missing}", True)


def _inputs(builder: Builder, inputs: list[fx.Node], names: Mapping[str, str]) -> dict[str, Any]:
    """The ``inputs`` of a graph, where that is not one tensor of numbers; ``names`` are other ones than the trace's."""
    kinds = [content_of(node.meta["val"]) for node in inputs]
    if kinds == ["number"]:
        return {}
    below = _tables(builder)
    found = []
    for place, (node, kind) in enumerate(zip(inputs, kinds, strict=True)):
        own = {"name": names.get(node.name, node.name), "shape": tuple(node.meta["val"].shape[1:]), "content": kind}
        found.append(own | ({"below": below.get(place, UNBOUNDED)} if kind == "integer" else {}))
    return {"inputs": tuple(found)}


def _named_in_order(model: nn.Module) -> dict[str, str]:
    """The names that the module has for what is given by place, by those that a trace has for it."""
    given = inspect.signature(model.forward).parameters.values()
    places = [each.name for each in given if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return {f"args_{place}": name for place, name in enumerate(places) if name.isascii()}


def _tables(builder: Builder) -> dict[int, int]:
    """Of every input that is the index of a table, or of several, the rows of the smallest one."""
    origin, rows = {0: 0}, {}
    for index, node in enumerate(builder.nodes, start=1):
        reads = node.get("reads", ())
        if node["op"] == "input":
            origin[index] = node["options"]["place"]
        elif node["op"] in ("reshape", "expand", "permute", "slice") and reads[0] in origin:
            origin[index] = origin[reads[0]]
        elif node["op"] == "take" and reads[1] in origin and reads[0]:
            size = builder.results[reads[0] - 1][node["options"]["axis"]]
            rows[origin[reads[1]]] = min(size, rows.get(origin[reads[1]], size))
    return rows


def _tied(builder: Builder) -> tuple[tuple[str, str], ...]:
    """Pairs of parameters that are one: by the first name that the module has for it, and by another."""
    return tuple((first, second) for second, first in builder.canonical.items() if first != second)


def _convert_one(builder: Builder, node: fx.Node) -> None:
    name = name_of(node)
    try:
        if any(isinstance(builder.values.get(each), Missing) for each in node.all_input_nodes):
            raise next(each for read in node.all_input_nodes if isinstance(each := builder.values.get(read), Missing))
        converter = CONVERTERS.get(name)
        if converter is None:
            raise Missing("it is none of the operations that are known")
        if name not in _OF_ANY:
            _of_numbers(node)
        _same_options(builder, node, name)
        try:
            builder.values[node] = converter(builder, node, arguments(node))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise Missing(f"its arguments have a form that is not known: {error}") from error
    except Missing as missing:
        builder.values[node] = missing if missing.placed else Missing(f"{_place(builder, node)}: {missing}", True)
    if writes(node):
        written(builder, node, _place(builder, node))


def _of_numbers(node: fx.Node) -> None:
    """Raises ``Missing`` where an operator reads or gives something else than numbers, or than integers alone."""
    if name_of(node) in _OF_INTEGERS:
        kinds = {content_of(each.meta["val"]) for each in (*node.all_input_nodes, node)}
        if kinds == {"integer"}:
            return
    for each in (*node.all_input_nodes, node):
        value = each.meta.get("val")
        if isinstance(value, Tensor) and not value.dtype.is_floating_point:
            raise Missing(f"it works with numbers of type {str(value.dtype).removeprefix('torch.')}")


def _place(builder: Builder, node: fx.Node) -> str:
    """Such as ``'bernoulli' in blocks.0.drop (net.py:12)``."""
    module = builder.piece.module(node)
    frames = [line.strip() for line in str(node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    line = ""
    if frames:
        file, _, rest = frames[-1].removeprefix('File "').partition('", line ')
        line = f" ({Path(file).name}:{rest.partition(',')[0]})"
    return f"{name_of(node)!r} in {module or 'the model'}{line}"


#: Operators whose sizes are taken from their results.
_SIZED = {
    "view", "reshape", "_unsafe_view", "_reshape_copy", "flatten", "unflatten", "squeeze", "unsqueeze", "expand",
    "broadcast_to", "expand_as", "to", "_to_copy", "split_with_sizes", "chunk", "split", "unbind", "slice",
}  # fmt: skip


def _same_options(builder: Builder, node: fx.Node, name: str) -> None:
    """Raises ``Missing`` where numbers that are no sizes depend on the batch."""
    if name in _SIZED:
        return
    pairs = zip(_plain(node), _plain(builder.other[node]), strict=False)
    if any(one != two for one, two in pairs):
        raise Missing("its numbers depend on the size of the batch")


def _plain(node: fx.Node) -> list[Any]:
    return [map_arg(each, lambda one: one.name) for each in (*node.args, *node.kwargs.values())]


def _add_unread(builder: Builder) -> None:
    """Parameters that no layer has: unread ones, and the second names of tied ones."""
    covered = set()
    for path, layer in builder.layers.items():
        if layer["kind"] == "parameter":
            covered.add(path)
        elif layer["kind"] == "recurrent":
            covered |= {f"{path}.{name}" for name in layer["laws"]}
        else:
            covered |= {f"{path}.{name}" for name in ("weight", "bias") if layer.get(name) is not None}
    for path in builder.parameters:
        if path not in covered:
            builder.layers[path] = builder.bare(path)


def _add_buffers(builder: Builder) -> None:
    """Buffers that the network saves and no node reads, where their numbers are there and have a form."""
    norms = {path for path, layer in builder.layers.items() if layer["kind"] == "norm"}
    for path in builder.saved:
        if path in builder.layers or path.rpartition(".")[0] in norms or not set(path) <= _NAME:
            continue
        try:
            value = builder.model.get_buffer(path)
            if not value.is_meta:
                builder.layers[path] = builder.made_constant(path, value.detach().cpu())
        except (AttributeError, Missing):
            continue


def _in_order(builder: Builder) -> tuple[dict[str, Any], ...]:
    """The layers in the order of the module's parameters and buffers; those without any at the end, as met."""
    places = {}
    for index, name in enumerate([*builder.model.state_dict(), *builder.parameters]):
        places.setdefault(name, index)
        places.setdefault(name.rpartition(".")[0], index)
    return tuple(sorted(builder.layers.values(), key=lambda layer: places.get(layer["path"], len(places))))


def _pruned(builder: Builder, last: int) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """The nodes that the output depends on, with the output last, and the shapes of their results."""
    if last == 0:
        raise NoGraph("its output is its input")
    needed, pending = set(), [last]
    while pending:
        index = pending.pop()
        if index and index not in needed:
            needed.add(index)
            pending += builder.nodes[index - 1].get("reads", ())
    kept = sorted(needed)
    if kept[-1] != last:
        raise NoGraph("its output is not the last of its operations")
    places = {0: 0} | {index: place for place, index in enumerate(kept, start=1)}
    found = []
    for index in kept:
        node = builder.nodes[index - 1]
        found.append({**node, "reads": tuple(places[each] for each in node.get("reads", ()))})
    used = {node.get("layer") for node in found}
    for path in [path for path, layer in builder.layers.items() if path not in used]:
        layer = builder.layers[path]
        if layer["kind"] != "parameter":  # a layer whose result is not used
            del builder.layers[path]
            for name in ("weight", "bias"):
                if f"{path}.{name}" in builder.parameters:
                    builder.layers[f"{path}.{name}"] = builder.bare(f"{path}.{name}")
    return found, [builder.results[index - 1] for index in kept]
