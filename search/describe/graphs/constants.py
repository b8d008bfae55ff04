"""What a trace computes from neither inputs nor parameters: it is computed once, and held by a graph as a constant.

Positions, masks and the indices of relative positions are such: they follow from buffers and from code. Each operator
is run on the processor in both traces; what comes out in both is a constant, and what grows with the batch is one for
each sample. Numbers that are random are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.operators import name_of
from collegium.search.networks.graph.content import LARGEST_INTEGER, MAX_CONSTANT, MAX_WRITTEN

#: Operators that read the shape and type of a tensor alone, with what fills their results.
_FILLED: Mapping[str, Callable[[fx.Node], float]] = {
    "zeros_like": lambda node: 0,
    "new_zeros": lambda node: 0,
    "ones_like": lambda node: 1,
    "new_ones": lambda node: 1,
    "full_like": lambda node: node.args[1],  # type: ignore[return-value]
    "new_full": lambda node: node.args[2],  # type: ignore[return-value]
}
#: Operators of whose results multiply–accumulates are counted.
_COUNTED = {
    "matmul", "bmm", "mm", "addmm", "baddbmm", "linear", "einsum", "scaled_dot_product_attention", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
}  # fmt: skip
#: Operators whose results are not determined by what they read.
_UNDETERMINED = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"}


@dataclass
class Constants:
    """The values of nodes that are constant, in a trace and in its ``twin``; ``other`` pairs their nodes.

    ``leaves`` are the tensors that placeholders of buffers and of constants stand for.
    """

    other: Mapping[fx.Node, fx.Node]
    leaves: Mapping[fx.Node, Tensor]
    values: dict[fx.Node, tuple[Any, Any]] = field(default_factory=dict)
    _own: dict[fx.Node, Any] = field(default_factory=dict)
    _counted: dict[fx.Node, bool] = field(default_factory=dict)

    def run(self, node: fx.Node) -> bool:
        """Compute a node of both traces where it is constant; whether it is."""
        if node in self.leaves:
            leaf = self.leaves[node]
            if leaf.is_meta:
                return False
            return self._add(node, leaf.detach().cpu().clone(), leaf.detach().cpu().clone())
        if node.op != "call_function" or not _determined(node):
            return False
        filled = name_of(node) in _FILLED
        if not filled and any(each not in self._own for each in node.all_input_nodes):
            return False
        sizes = [each.numel() for each in _tensors(node.meta.get("val"))]
        if not sizes or max(sizes) > MAX_CONSTANT:
            return False
        with torch.no_grad():
            return self._add(
                node, *(_made(each) if filled else self._computed(each) for each in (node, self.other[node]))
            )

    def _add(self, node: fx.Node, one: Any, two: Any) -> bool:
        self.values[node] = (one, two)
        self._own[node], self._own[self.other[node]] = one, two
        return True

    def forget(self, node: fx.Node) -> None:
        """Something that is no constant was written into this node's tensor."""
        self.values.pop(node, None)
        self._own.pop(node, None)

    def costs(self, node: fx.Node) -> bool:
        """Whether multiply–accumulates are counted on the way to a constant, which a graph must have as well."""
        if node not in self._counted:
            reads = [] if name_of(node) in _FILLED else node.all_input_nodes
            self._counted[node] = name_of(node) in _COUNTED or any(self.costs(each) for each in reads)
        return self._counted[node]

    def _computed(self, node: fx.Node) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self._own.__getitem__)
        kwargs = dict(kwargs)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        args = tuple(torch.device("cpu") if isinstance(each, torch.device) else each for each in args)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _determined(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags and name_of(node) not in _UNDETERMINED


def _made(node: fx.Node) -> Tensor:
    like = node.meta["val"]
    return torch.full(tuple(map(int, like.shape)), _FILLED[name_of(node)](node), dtype=like.dtype)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for each in value if isinstance(each, Tensor)] if isinstance(value, list | tuple) else []


def content_of(tensor: Tensor) -> str:
    """What a tensor holds. Raises ``Missing`` for complex numbers."""
    if tensor.dtype == torch.bool:
        return "boolean"
    if tensor.dtype.is_complex:
        raise Missing("it works with complex numbers")
    return "number" if tensor.dtype.is_floating_point else "integer"


def encoded(tensor: Tensor) -> dict[str, Any]:
    """The fields of a constant of a graph that is this tensor, bit for bit. Raises ``Missing`` where it has no form.

    >>> encoded(torch.ones(2, 3).tril() > 0)["levels"]
    [0, 1]
    >>> encoded(torch.arange(4) + 1)
    {'shape': [4], 'content': 'integer', 'start': 1, 'steps': [1]}
    """
    content = content_of(tensor)
    if content == "number" and tensor.dtype != torch.get_default_dtype():
        raise Missing(f"a constant of type {str(tensor.dtype).removeprefix('torch.')}")
    wide = tensor.to(torch.float64)
    found = {"shape": list(tensor.shape), "content": content}
    if bool(wide.isnan().any()) or bool((wide == torch.inf).any()):
        raise Missing("a constant that is no number")
    if content == "integer" and wide.numel() and float(wide.abs().max()) > LARGEST_INTEGER:
        raise Missing("an integer that is too large")
    for form in (_affine, _step, _of_classes):
        own = form(wide)
        if own is not None:
            return found | own
    if tensor.numel() <= MAX_WRITTEN:
        return found | {"values": [_entry(each) for each in wide.flatten().tolist()]}
    raise Missing(f"a constant of {tensor.numel():,} numbers in no order that is known")


def _entry(value: float) -> int | float | str:
    if value == -torch.inf:
        return "-inf"
    return int(value) if value.is_integer() and abs(value) <= LARGEST_INTEGER else value


def _sum(shape: tuple[int, ...], start: float, steps: list[float]) -> Tensor:
    found = torch.full(shape, start, dtype=torch.float64)
    for axis, step in enumerate(steps):
        places = torch.arange(shape[axis], dtype=torch.float64)
        found = found + step * places.reshape(-1, *[1] * (len(shape) - axis - 1))
    return found


def _affine(wide: Tensor) -> dict[str, Any] | None:
    start = wide[(0,) * wide.dim()].item()
    steps = [
        0.0 if size == 1 else wide[tuple(int(each == axis) for each in range(wide.dim()))].item() - start
        for axis, size in enumerate(wide.shape)
    ]
    if any(steps) and not all(float(each).is_integer() for each in (start, *steps)):
        return None
    if start == -torch.inf or not torch.equal(_sum(tuple(wide.shape), start, steps), wide):
        return None
    return {"start": _entry(start), "steps": [_entry(each) for each in steps]}


def _step(wide: Tensor) -> dict[str, Any] | None:
    """Two levels, on the sides of a straight line along one or two axes."""
    low, high = wide.min(), wide.max()
    above = wide == high
    if not bool((above | (wide == low)).all()):
        return None
    axes = [axis for axis, size in enumerate(wide.shape) if size > 1]
    for axis in axes:
        for beside in (None, *(each for each in axes if each > axis)):
            for sign, other in ((1, -1), (-1, 1), (1, 1), (-1, -1)):
                steps = [0.0] * wide.dim()
                steps[axis] = float(sign)
                if beside is not None:
                    steps[beside] = float(other)
                line = _sum(tuple(wide.shape), 0.0, steps)
                edge = line[above].min().item()
                if edge > line[~above].max().item():
                    levels = [_entry(low.item()), _entry(high.item())]
                    return {"start": int(-edge), "steps": [int(each) for each in steps], "levels": levels}
    return None


def _of_classes(wide: Tensor) -> dict[str, Any] | None:
    """One level where two places of an axis are of one class, and another one where they are not."""
    if wide.dim() < 2 or wide.shape[-1] != wide.shape[-2] or wide.numel() // wide.shape[-1] > MAX_WRITTEN:
        return None
    same = wide.diagonal(dim1=-2, dim2=-1).flatten()[0]
    levels = wide[wide != same].unique()
    if len(levels) != 1:
        return None
    classes = (wide == same).to(torch.int8).argmax(-1)
    made = torch.where(classes[..., :, None] == classes[..., None, :], same, levels[0])
    if not torch.equal(made, wide):
        return None
    return {"classes": classes.flatten().tolist(), "levels": [_entry(same.item()), _entry(levels[0].item())]}
