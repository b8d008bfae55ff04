"""Attention in a traced graph: its heads, their width and the tokens, from the shapes of what is multiplied.

Recognised are ``scaled_dot_product_attention`` and the same written out: a product of two maps, a softmax along its
last axis, and a product with a third map. Between them may stand scales, masks, dropout, copies and reshapes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Any

from pydantic import ValidationError
from torch import fx

from collegium.search.describe.operators import (
    COPIES,
    PERMUTATIONS,
    RESHAPES,
    arguments,
    name_of,
    readers,
    shape_of,
)
from collegium.search.describe.trace import Piece, Trace
from collegium.search.networks.families.attention import AttentionBlock

_PRODUCTS = {"matmul", "bmm", "baddbmm"}
_SOFTMAX = {"softmax", "_softmax", "_safe_softmax"}
_DROPOUT = {"dropout", "native_dropout", "getitem"}
#: What may stand between the first product and the softmax: scales, masks and position biases.
_SCORES = {"mul", "div", "add", "sub", "masked_fill", "where", "clamp", "tanh", "slice"} | COPIES | RESHAPES
_MOVED = COPIES | RESHAPES | PERMUTATIONS | _DROPOUT
#: Operations that are followed, at most, and blocks that a specification holds.
_MOST_STEPS, MOST_BLOCKS = 24, 256


def attention_of(trace: Trace, batch: int) -> tuple[AttentionBlock, ...]:
    """The blocks of attention in the order in which they run, those that are alike as one."""
    found: dict[Hashable, tuple[dict[str, Any], list[str]]] = {}
    for piece in trace.pieces:
        for node in piece.graph.nodes:
            sizes = _sizes(node, batch)
            if sizes is not None:
                _, paths = found.setdefault(tuple(sizes.items()), (sizes, []))
                paths.append(_path(piece, node))
    return tuple(_blocks(list(found.values())[:MOST_BLOCKS]))


def _path(piece: Piece, node: fx.Node) -> str:
    path = piece.module(node)
    return path if path.isprintable() and len(path) <= 512 else ""


def _blocks(found: list[tuple[dict[str, Any], list[str]]]) -> Iterator[AttentionBlock]:
    for sizes, paths in found:
        try:
            yield AttentionBlock(**sizes, count=len(paths), paths=tuple(paths) if len(paths) <= 2048 else ())
        except ValidationError:  # larger than a specification holds
            continue


def _sizes(node: fx.Node, batch: int) -> dict[str, Any] | None:
    """Heads, widths and tokens of the attention whose result a node is; None where it is none."""
    name = name_of(node)
    if name == "scaled_dot_product_attention":
        given = arguments(node)
        return _from_shapes(node, given["query"], given["key"], given["value"], batch, swapped=False)
    if name not in _PRODUCTS:
        return None
    weights, values = _factors(node)
    softmax = _before(weights, _SOFTMAX, _DROPOUT | COPIES | RESHAPES | {"where", "masked_fill", "mul"})
    if softmax is None or not _along_last(softmax):
        return None
    scores = _before(softmax.all_input_nodes[0], _PRODUCTS, _SCORES)
    if scores is None:
        return None
    queries, keys = _factors(scores)
    if len(shape_of(queries)) < 3 or len(shape_of(keys)) < 3 or len(shape_of(values)) < 3:
        return None
    return _from_shapes(node, queries, keys, values, batch, swapped=True)


def _factors(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    one, other = node.all_input_nodes[-2:] if len(node.all_input_nodes) > 1 else node.all_input_nodes * 2
    return one, other


def _along_last(softmax: fx.Node) -> bool:
    return arguments(softmax)["dim"] in (-1, len(shape_of(softmax)) - 1)


def _before(node: fx.Node, wanted: set[str], passed: set[str]) -> fx.Node | None:
    """The operator in ``wanted`` that a node derives from, by those in ``passed`` alone; the first argument counts."""
    for _ in range(_MOST_STEPS):
        if name_of(node) in wanted:
            return node
        inputs = node.all_input_nodes
        if name_of(node) not in passed or not inputs:
            return None
        same = [each for each in inputs if shape_of(each) == shape_of(node)] or inputs
        node = same[-1] if name_of(node) == "where" else same[0]
    return None


def _from_shapes(
    node: fx.Node, queries: fx.Node, keys: fx.Node, values: fx.Node, batch: int, *, swapped: bool
) -> dict[str, Any] | None:
    """The sizes, where heads are an axis of their own, or one with the batch; ``swapped`` keys have tokens last."""
    query, key, value = shape_of(queries), shape_of(keys), shape_of(values)
    if min(len(query), len(key), len(value)) < 3:
        return None
    width, tokens, attended, value_width = query[-1], query[-2], key[-1 if swapped else -2], value[-1]
    merged = len(query) == 3
    if merged and query[0] % batch:
        return None
    together = query[0] // batch if merged else query[-3]
    heads = _heads_of_reader(node, value_width, together)
    if heads is None and merged and together > 1:
        return None  # heads, or windows, or both
    heads = heads or together
    sizes = {"heads": heads, "width": width, "tokens": tokens}
    key_heads = heads if merged else key[-3] // _growth(keys)
    if attended != tokens:
        sizes["keys"] = attended
    if key_heads not in (0, heads) and heads % key_heads == 0:
        sizes["key_heads"] = key_heads
    if value_width != width:
        sizes["value_width"] = value_width
    return sizes


def _heads_of_reader(node: fx.Node, width: int, together: int) -> int | None:
    """Heads by the features of the linear layer that reads the result, where these are heads · width."""
    for _ in range(_MOST_STEPS):
        reading = readers(node)
        if len(reading) != 1:
            return None
        (reader,) = reading
        name = name_of(reader)
        if name in ("linear", "addmm", "mm", "matmul"):
            features = shape_of(node)[-1]
            heads = features // width
            return heads if features % width == 0 and together % heads == 0 else None
        if name not in _MOVED:
            return None
        node = reader
    return None


def _growth(keys: fx.Node) -> int:
    """How often keys have been repeated, so that several heads share them."""
    node = keys
    for _ in range(_MOST_STEPS):
        inputs = node.all_input_nodes
        if name_of(node) in ("expand", "repeat_interleave") and inputs:
            before, after = math.prod(shape_of(inputs[0])), math.prod(shape_of(node))
            return after // before if before and after % before == 0 else 1
        if name_of(node) not in _MOVED | {"mul"} or not inputs:
            return 1
        node = inputs[0]
    return 1
