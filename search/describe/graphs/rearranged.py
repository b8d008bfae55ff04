"""Operators that rearrange, join and divide tensors, as operations of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from collegium.search.describe.graphs.builder import Builder, Converter, Given, node_of
from collegium.search.describe.graphs.constants import content_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.operators import COPIES, RESHAPES


def _copy(builder: Builder, node: fx.Node, given: Given) -> int:
    source, shape = node_of(node.args[0]), builder.shape(node)
    before, after = (content_of(each.meta["val"]) for each in (source, node))
    found = builder.value(source)
    if before == after:
        return found
    if after == "number":
        return builder.emit("as_number", [found], shape)
    if after == "boolean":
        return builder.emit("compare", [found], shape, relation="not_equal", number=0.0)
    if before == "boolean":
        return builder.emit("as_integer", [found], shape)
    raise Missing(f"it makes integers of {before}s")


def _reshape(builder: Builder, node: fx.Node, given: Given) -> int:
    found, shape = builder.value(node.args[0]), builder.shape(node)
    return _as(builder, found, builder.shape(node_of(node.args[0])), shape)


def _as(builder: Builder, value: int, before: Sequence[int], shape: Sequence[int]) -> int:
    return value if tuple(before) == tuple(shape) else builder.emit("reshape", [value], shape, shape=tuple(shape))


def _expand(builder: Builder, node: fx.Node, given: Given) -> int:
    found, shape = builder.value(node.args[0]), builder.shape(node)
    if shape == builder.shape(node_of(node.args[0])):
        return found
    return builder.emit("expand", [found], shape, shape=shape)


def _permute(builder: Builder, node: fx.Node, given: Given) -> int:
    """Where each axis goes is seen on a tensor without memory whose axes all have sizes of their own."""

    source = node_of(node.args[0])
    found, count = builder.value(source), len(builder.shape(source))
    marked = torch.empty([index + 2 for index in range(count)], device="meta")
    assert callable(node.target)
    order = tuple(size - 2 for size in node.target(marked, *node.args[1:], **node.kwargs).shape)
    shape = builder.shape(node)
    return found if order == tuple(range(count)) else builder.emit("permute", [found], shape, order=order)


def _cat(builder: Builder, node: fx.Node, given: Given) -> int:
    tensors = given["tensors"]
    shape = builder.shape(node)
    if isinstance(tensors, fx.Node):
        raise Missing("it joins all results of another operation")
    parts = [builder.value(each) for each in tensors if not _is_empty(each)]
    return parts[0] if len(parts) == 1 else builder.emit("cat", parts, shape, axis=given["dim"] % len(shape))


def _is_empty(node: fx.Node) -> bool:
    """Whether a tensor has no numbers, as a cache before its first tokens: it adds nothing to what it is joined to."""
    return node.meta["val"].numel() == 0


def _stack(builder: Builder, node: fx.Node, given: Given) -> int:
    shape = builder.shape(node)
    axis = given["dim"] % len(shape)
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [builder.emit("reshape", [builder.value(each)], single, shape=single) for each in given["tensors"]]
    return builder.emit("cat", parts, shape, axis=axis)


def cut(builder: Builder, value: int, before: Sequence[int], axis: int, start: int, end: int, step: int = 1) -> int:
    """The part ``start:end:step`` of an axis. Raises ``Missing`` where that is the axis of the batch."""
    if before[axis] < 0:
        raise Missing("it divides the axis of the batch")
    if (start, end, step) == (0, before[axis], 1):
        return value
    size = -(-(end - start) // step)
    shape = (*before[:axis], size, *before[axis + 1 :])
    return builder.emit("slice", [value], shape, axis=axis, start=start, end=end, step=step)


def _slice(builder: Builder, node: fx.Node, given: Given) -> int:
    source = node_of(given["self"])
    found, before, after = builder.value(source), builder.shape(source), builder.shape(node)
    axis = given["dim"] % len(before)
    if before == after:
        return found
    size = abs(before[axis])
    start = given["start"] or 0
    end = size if given["end"] is None else given["end"]
    start, end = (max(0, min(size, each + size if each < 0 else each)) for each in (start, end))
    return cut(builder, found, before, axis, start, end, given["step"])


def _narrow(builder: Builder, node: fx.Node, given: Given) -> int:
    source = node_of(given["self"])
    before = builder.shape(source)
    axis, start = given["dim"] % len(before), given["start"]
    if not isinstance(start, int) or start < 0:
        raise Missing("where it begins is not a plain number")
    return cut(builder, builder.value(source), before, axis, start, start + given["length"])


def _select(builder: Builder, node: fx.Node, given: Given) -> int:
    source = node_of(given["self"])
    before = builder.shape(source)
    axis = given["dim"] % len(before)
    return _selected(builder, builder.value(source), before, axis, given["index"])


def _selected(builder: Builder, value: int, before: Sequence[int], axis: int, index: int) -> int:
    index = index % abs(before[axis])
    single = cut(builder, value, before, axis, index, index + 1)
    shape = (*before[:axis], *before[axis + 1 :])
    return builder.emit("reshape", [single], shape, shape=shape)


def _divided(builder: Builder, node: fx.Node, given: Given) -> list[int]:
    """Parts along an axis, each as long as it is in the trace."""
    source = node_of(given["self"])
    found, before = builder.value(source), builder.shape(source)
    axis = given["dim"] % len(before)
    sizes = [
        builder.scaled(one, two)[axis]
        for one, two in zip(node.meta["val"], builder.other[node].meta["val"], strict=True)
    ]
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [cut(builder, found, before, axis, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _unbind(builder: Builder, node: fx.Node, given: Given) -> list[int]:
    source = node_of(given["self"])
    found, before = builder.value(source), builder.shape(source)
    axis = given["dim"] % len(before)
    return [_selected(builder, found, before, axis, index) for index in range(max(0, before[axis]))]


def _item(builder: Builder, node: fx.Node, given: Given) -> int:
    source, index = node_of(node.args[0]), node.args[1]
    found = builder.values.get(source)
    if not isinstance(found, list) or not isinstance(index, int):
        raise Missing("it is one of several results that are not known")
    one = found[index]
    if one is None:
        raise Missing(f"the result {index} of {source.name!r}, which is no tensor of a graph")
    return one


def _pixel_shuffle(builder: Builder, node: fx.Node, given: Given) -> int:
    source = node_of(given["self"])
    b, c, h, w = builder.shape(source)
    r = given["upscale_factor"]
    apart = (b, c // r**2, r, r, h, w)
    found = builder.emit("reshape", [builder.value(source)], apart, shape=apart)
    moved = (b, c // r**2, h, r, w, r)
    found = builder.emit("permute", [found], moved, order=(0, 1, 4, 2, 5, 3))
    return builder.emit("reshape", [found], builder.shape(node), shape=builder.shape(node))


def _roll(builder: Builder, node: fx.Node, given: Given) -> int:
    shape = builder.shape(node)
    axes = tuple(axis % len(shape) for axis in given["dims"])
    if not axes:
        raise Missing("it rolls all numbers as one row")
    return builder.emit("roll", [builder.value(given["self"])], shape, shifts=tuple(given["shifts"]), axes=axes)


def _glu(builder: Builder, node: fx.Node, given: Given) -> int:
    source = node_of(given["self"])
    found, before, shape = builder.value(source), builder.shape(source), builder.shape(node)
    axis = given["dim"] % len(before)
    half = before[axis] // 2
    one = cut(builder, found, before, axis, 0, half)
    gate = builder.emit("sigmoid", [cut(builder, found, before, axis, half, 2 * half)], shape)
    return builder.emit("mul", [one, gate], shape)


_PERMUTED = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "numpy_T", "mT")
#: Operators that rearrange, join and divide tensors.
REARRANGED: dict[str, Converter] = {
    **dict.fromkeys(COPIES, _copy),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(_PERMUTED, _permute),
    "expand": _expand,
    "expand_as": _expand,
    "broadcast_to": _expand,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "stack": _stack,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "chunk": _divided,
    "split": _divided,
    "split_with_sizes": _divided,
    "unbind": _unbind,
    "getitem": _item,
    "pixel_shuffle": _pixel_shuffle,
    "roll": _roll,
    "glu": _glu,
}
