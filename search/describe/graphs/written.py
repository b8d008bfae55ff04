"""What is written into a tensor in place, or into a part of one: later readers read what was written.

A graph has no writes. A tensor into a part of which something is written is, from there on, the parts before and behind
it joined with what was written. What else shares its memory is then unknown.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from collegium.search.describe.graphs.builder import Builder, Converter, Given, node_of, number_of
from collegium.search.describe.graphs.constants import content_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.graphs.rearranged import cut
from collegium.search.describe.operators import arguments, name_of


def writes(node: fx.Node) -> bool:
    """Whether an operator writes into what it reads first."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def written(builder: Builder, node: fx.Node, place: str) -> None:
    """Give each node that shares the memory of what was written the value that it has from here on."""
    target = node.args[0] if node.args else None
    if not isinstance(target, fx.Node):
        return
    root = _root(target)
    try:
        if root in builder.piece.parameters:
            raise Missing("it writes into a parameter")
        now = _now(builder, _itself(target), root, builder.value(node))
    except Missing as missing:
        found = missing if missing.placed else Missing(f"{place}: {missing}", True)
        now = {root: found, target: found}
    shared = Missing(f"{place}: it writes into a part of another tensor", True)
    for each in builder.piece.graph.nodes:
        if _root(each) is root and each.op != "output":
            builder.constants.forget(each)
            builder.values[each] = now.get(_itself(each), shared)


def _now(builder: Builder, target: fx.Node, root: fx.Node, value: int) -> dict[fx.Node, Any]:
    """The values of what was written into, and of every tensor that it is a part of."""
    found: dict[fx.Node, Any] = {target: value}
    while target is not root:
        whole = _itself(node_of(target.args[0]))
        value = _joined(builder, target, whole, value)
        found[whole], target = value, whole
    return found


def _joined(builder: Builder, part: fx.Node, whole: fx.Node, value: int) -> int:
    """A tensor with another ``value`` in the place of its part, a slice or one entry of an axis."""
    given, shape = arguments(part), builder.shape(whole)
    if name_of(part) not in ("slice", "select") or given.get("step", 1) != 1:
        raise Missing("it writes into a part of another tensor")
    axis = given["dim"] % len(shape)
    size, before = shape[axis], builder.value(whole)
    if size < 0:
        raise Missing("it writes into some samples of the batch")
    if name_of(part) == "select":
        start = given["index"] % size
        end, own = start + 1, (*shape[:axis], 1, *shape[axis + 1 :])
        value = builder.emit("reshape", [value], own, shape=own)
    else:
        start, end = (0 if given["start"] is None else given["start"]), (size if given["end"] is None else given["end"])
        start, end = (max(0, min(size, each + size if each < 0 else each)) for each in (start, end))
    around = ((0, start), (end, size))
    kept = [[cut(builder, before, shape, axis, low, high)] if low < high else [] for low, high in around]
    parts = [*kept[0], value, *kept[1]]
    return value if len(parts) == 1 else builder.emit("cat", parts, shape, axis=axis)


def _itself(node: fx.Node) -> fx.Node:
    """The tensor that a write gives is the one that was written into."""
    while writes(node) and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _root(node: fx.Node) -> fx.Node:
    """The node whose memory a view, or what was written in place, is a part of."""
    while _is_view(node) or writes(node):
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            break
        node = source
    return node


#: Operators that may give a part of their input's memory and do not say so.
_MAYBE_VIEWS = {
    "reshape", "flatten", "contiguous", "to", "chunk", "split", "split_with_sizes", "tensor_split", "unbind",
}  # fmt: skip


def _is_view(node: fx.Node) -> bool:
    if name_of(node) == "getitem":
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or writes(node):
        return False
    aliased = any(each.alias_info is not None for each in node.target._schema.returns)
    return aliased or name_of(node) in _MAYBE_VIEWS


def _filled(builder: Builder, node: fx.Node, given: Given) -> int:
    """Zeros, or one number everywhere."""
    value, like = given.get("value", 0), node_of(given["self"]).meta["val"]
    if isinstance(value, fx.Node):
        held = builder.constants.values.get(value)
        if held is None:
            return _copied_from(builder, node, value)
        value = held[0].item()
    return _spread(builder, node, builder.held(torch.full((1,) * like.dim(), number_of(value), dtype=like.dtype), None))


def _copy(builder: Builder, node: fx.Node, given: Given) -> int:
    return _copied_from(builder, node, node_of(given["src"]))


def _copied_from(builder: Builder, node: fx.Node, source: fx.Node) -> int:
    one, other = content_of(source.meta["val"]), content_of(node_of(node.args[0]).meta["val"])
    if one != other:
        raise Missing(f"it writes {one}s into {other}s")
    return _spread(builder, node, builder.value(source), builder.shape(source))


def _spread(builder: Builder, node: fx.Node, value: int, before: tuple[int, ...] | None = None) -> int:
    shape = builder.shape(node)
    return value if before == shape else builder.emit("expand", [value], shape, shape=shape)


#: Operators that do nothing but write.
WRITTEN: dict[str, Converter] = {"zero": _filled, "fill": _filled, "copy": _copy}
