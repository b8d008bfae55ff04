"""Operators that look up, compare and mask, as operations of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from collegium.search.describe.graphs.builder import Builder, Converter, Given, node_of, number_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.operators import arguments, name_of
from collegium.search.describe.trace import Piece


def _embedding(builder: Builder, node: fx.Node, given: Given) -> int:
    if given.get("scale_grad_by_freq") or given.get("sparse"):
        raise Missing("gradients that are sparse, or scaled by how often an index occurs")
    reads = [builder.value(given["weight"]), builder.value(given["indices"])]
    padding = padding_row(given)
    return builder.emit("take", reads, builder.shape(node), axis=0, **({} if padding is None else {"padding": padding}))


def padding_row(given: Given) -> int | None:
    """The row of a table that stands for padding, which has no gradient; None where there is none."""
    row = int(given.get("padding_idx", -1))
    return None if row < 0 else row


def rows_of_padding(piece: Piece, model: nn.Module, canonical: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Of tables by their first names the rows that stand for padding where they are read, and start at zero.

    On the device ``meta`` they are those of ``nn.Embedding``, which starts them at zero.
    """
    found: dict[str, tuple[int, ...]] = {}
    for node in piece.graph.nodes:
        if name_of(node) != "embedding":
            continue
        given = arguments(node)
        path, row = piece.parameters.get(given["weight"]), padding_row(given)
        if path is None or row is None or row in found.get(canonical[path], ()):
            continue
        table, owner = model.get_parameter(path), model.get_submodule(path.rpartition(".")[0])
        own = isinstance(owner, nn.Embedding) and owner.padding_idx == row
        if own if table.is_meta else not bool(table[row].any()):
            found[canonical[path]] = (*found.get(canonical[path], ()), row)
    return found


def _index(builder: Builder, node: fx.Node, given: Given) -> int:
    source, indices = node_of(given["self"]), list(given["indices"])
    at = [axis for axis, index in enumerate(indices) if index is not None]
    if any(_is_boolean(indices[axis]) for axis in at):
        raise Missing("it reads the places where a mask is true, whose number is not known")
    shape = builder.shape(node)
    if len(at) == 1:
        reads = [builder.value(source), builder.value(indices[at[0]])]
        return builder.emit("take", reads, shape, axis=at[0])
    if at == [0, 1] and builder.counts_batch(indices[0]):
        return _of_each(builder, source, node_of(indices[1]), shape)
    raise Missing("it reads by several indices at once")


def _of_each(builder: Builder, source: fx.Node, index: fx.Node, shape: tuple[int, ...]) -> int:
    """Of every sample the places of an index: the same for all samples, or places of its own."""
    places, before, at = builder.value(index), builder.shape(source), builder.shape(index)
    if at[:1] != before[:1]:
        taken = (before[0], *at, *before[2:])
        found = builder.emit("take", [builder.value(source), places], taken, axis=1)
        return builder.emit("reshape", [found], shape, shape=shape)
    count = math.prod(at[1:])
    apart, wide = (before[0], count, *(1 for _ in before[2:])), (before[0], count, *before[2:])
    places = builder.emit("reshape", [places], apart, shape=apart)
    places = builder.emit("expand", [places], wide, shape=wide)
    found = builder.emit("gather", [builder.value(source), places], wide, axis=1)
    return found if wide == shape else builder.emit("reshape", [found], shape, shape=shape)


def _argmax(builder: Builder, node: fx.Node, given: Given) -> int:
    source, axis = node_of(given["self"]), given["dim"]
    if axis is None:
        raise Missing("the place of the largest of all numbers")
    before, shape = builder.shape(source), builder.shape(node)
    axis %= len(before)
    without = (*before[:axis], *before[axis + 1 :])
    found = builder.emit("argmax", [builder.value(source)], without, axis=axis)
    return found if without == shape else builder.emit("reshape", [found], shape, shape=shape)


def _is_boolean(node: Any) -> bool:
    value = node_of(node).meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _index_select(builder: Builder, node: fx.Node, given: Given) -> int:
    source = node_of(given["self"])
    axis = given["dim"] % len(builder.shape(source))
    return builder.emit("take", [builder.value(source), builder.value(given["index"])], builder.shape(node), axis=axis)


def _gather(builder: Builder, node: fx.Node, given: Given) -> int:
    source, shape = node_of(given["self"]), builder.shape(node)
    reads = [builder.value(source), builder.value(given["index"])]
    return builder.emit("gather", reads, shape, axis=given["dim"] % len(shape))


def _filling(value: Any) -> Any:
    return "-inf" if value == -torch.inf else number_of(value)


def _masked_fill(builder: Builder, node: fx.Node, given: Given) -> int:
    source, mask, value, shape = given["self"], given["mask"], given["value"], builder.shape(node)
    reads = [builder.value(source), builder.value(mask)]
    if not isinstance(value, fx.Node):
        return builder.emit("fill_where", reads, shape, number=_filling(value))
    return builder.emit("where", [reads[1], builder.value(value), reads[0]], shape)


def _where(builder: Builder, node: fx.Node, given: Given) -> int:
    condition, one, other, shape = given["condition"], given["self"], given["other"], builder.shape(node)
    mask = builder.value(condition)
    if not isinstance(other, fx.Node):
        mask = builder.emit("not", [mask], builder.shape(condition))
        return builder.emit("fill_where", [builder.value(one), mask], shape, number=_filling(other))
    if not isinstance(one, fx.Node):
        return builder.emit("fill_where", [builder.value(other), mask], shape, number=_filling(one))
    return builder.emit("where", [mask, builder.value(one), builder.value(other)], shape)


def _compared(relation: str) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> int:
        if isinstance(given["other"], fx.Node):
            raise Missing("it compares two tensors of the inputs")
        found = builder.value(given["self"])
        return builder.emit(
            "compare", [found], builder.shape(node), relation=relation, number=number_of(given["other"])
        )

    return convert


def _both(builder: Builder, node: fx.Node, given: Given) -> int:
    reads = [builder.value(each) for each in (given["self"], given["other"])]
    return builder.emit("both", reads, builder.shape(node))


def _not(builder: Builder, node: fx.Node, given: Given) -> int:
    return builder.emit("not", [builder.value(given["self"])], builder.shape(node))


def _vector_norm(builder: Builder, node: fx.Node, given: Given) -> int:
    source, axes = node_of(given["self"]), given["dim"]
    if given["ord"] != 2 or not axes:
        raise Missing("a norm of another order, or of all numbers")
    places = tuple(axis % len(builder.shape(source)) for axis in axes)
    return builder.emit(
        "vector_norm", [builder.value(source)], builder.shape(node), axes=places, keep=bool(given["keepdim"])
    )


#: Operators that look up, compare and mask; these read integers and booleans too.
INDEXED: dict[str, Converter] = {
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "argmax": _argmax,
    "masked_fill": _masked_fill,
    "where": _where,
    "eq": _compared("equal"),
    "ne": _compared("not_equal"),
    "lt": _compared("less"),
    "le": _compared("less_equal"),
    "gt": _compared("greater"),
    "ge": _compared("greater_equal"),
    "__and": _both,
    "logical_and": _both,
    "bitwise_and": _both,
    "logical_not": _not,
    "bitwise_not": _not,
    "linalg_vector_norm": _vector_norm,
}
