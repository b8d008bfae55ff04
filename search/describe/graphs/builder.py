"""A graph in the making: the layers and operations so far, and what each node of the trace is in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from collegium.search.describe.graphs.constants import Constants, encoded
from collegium.search.describe.graphs.laws import law_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.trace import Piece

#: Layers that have the weight that they apply.
_LAYERS = (nn.Linear, _ConvNd)


@dataclass
class Builder:
    """A graph in the making: what each node of the trace is, and the layers and nodes so far.

    ``results`` are the shapes of the nodes' results in the trace. ``values`` has for each node of the trace the index
    of its value, those of several results, or why it is unknown. ``zero_rows`` are those of tables, by the first name
    of each, that stand for padding and start at zero.
    """

    piece: Piece
    other: Mapping[fx.Node, fx.Node]
    batches: tuple[int, int]
    model: nn.Module
    canonical: Mapping[str, str]
    parameters: Mapping[str, Tensor]
    constants: Constants
    convert: Callable[[fx.Node], None]
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    results: list[tuple[int, ...]] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    saved: Collection[str] = ()
    zero_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    _paths: dict[Any, str] = field(default_factory=dict)

    def emit(self, op: str, reads: Sequence[int], result: Sequence[int], /, **options: Any) -> int:
        """Add an operation whose result has this shape in the trace; the index of its value."""
        self.nodes.append({"op": op, "reads": list(reads), "options": options})
        self.results.append(tuple(result))
        return len(self.nodes)

    def layer(self, path: str, made: dict[str, Any], reads: Sequence[int], result: Sequence[int]) -> int:
        """Add a node that applies a layer, which other nodes may apply as well."""
        known = self.layers.setdefault(path, made)
        if known != made:
            raise Missing(f"the module {path!r} works in different ways in different places")
        self.nodes.append({"op": "layer", "reads": list(reads), "layer": path})
        self.results.append(tuple(result))
        return len(self.nodes)

    def parameter(self, node: fx.Node) -> int:
        """The value of a parameter that belongs to no layer."""
        path = self._table(self.piece.parameters[node])
        self.layers.setdefault(path, self.bare(path))
        self.nodes.append({"op": "parameter", "layer": path})
        self.results.append(tuple(self.parameters[path].shape))
        return len(self.nodes)

    def _table(self, path: str) -> str:
        """The name of a parameter, of several the first one that is not the weight of a layer that is known."""
        first = self.canonical[path]
        names = [name for name, canonical in self.canonical.items() if canonical == first]
        return next((name for name in names if not isinstance(self._owner(name), _LAYERS)), first)

    def _owner(self, path: str) -> nn.Module:
        return self.model.get_submodule(path.rpartition(".")[0])

    def constant(self, node: fx.Node) -> int:
        """The value of a node that depends on neither inputs nor parameters. Raises ``Missing``."""
        one, two = self.constants.values[node]
        if not isinstance(one, Tensor):
            raise Missing(f"it reads all results of {node.name!r} at once")
        if self.constants.costs(node):
            return self._converted(node)
        try:
            return self._held(node, one, two)
        except Missing:
            if not one.dtype.is_floating_point or node.op == "placeholder":
                raise
            return self._converted(node)

    def _converted(self, node: fx.Node) -> int:
        self.convert(node)
        found = self.values[node]
        if isinstance(found, Missing):
            raise found
        return found

    def _held(self, node: fx.Node, one: Tensor, two: Tensor) -> int:
        if one.shape == two.shape:
            if not torch.equal(one, two):
                raise Missing("its numbers depend on the size of the batch")
            return self.held(one, self.piece.buffers.get(node))
        shape = self.scaled(one, two)
        axis = next(place for place, size in enumerate(shape) if size < 0)
        first, second = (
            each.movedim(axis, 0).unflatten(0, (batch, -shape[axis]))
            for each, batch in zip((one, two), self.batches, strict=True)
        )
        if not bool((first == first[:1]).all()) or not bool((second == first[:1]).all()):
            raise Missing("it counts the samples of the batch")
        row = first[0].movedim(0, axis)
        found = self.held(row, None)
        apart = (*row.shape[:axis], 1, *row.shape[axis:])
        wide = (*row.shape[:axis], -1, *row.shape[axis:])
        if shape[axis] == -1:
            return self.emit("expand", [found], shape, shape=shape)
        found = self.emit("reshape", [found], apart, shape=apart)
        found = self.emit("expand", [found], wide, shape=wide)
        return self.emit("reshape", [found], shape, shape=shape)

    def held(self, value: Tensor, buffer: str | None) -> int:
        """A node that is this constant: the buffer of this name, or one that is not saved with the network."""
        key = (value.dtype, tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        if key not in self._paths:
            path = buffer or self._free_name()
            self.layers[path] = self.made_constant(path, value)
            self._paths[key] = path
        self.nodes.append({"op": "constant", "layer": self._paths[key]})
        self.results.append(tuple(value.shape))
        return len(self.nodes)

    def made_constant(self, path: str, value: Tensor) -> dict[str, Any]:
        """The layer that a constant is. Raises ``Missing`` where it has no form that is known."""
        return {"kind": "constant", "path": path, "saved": path in self.saved, **encoded(value)}

    def _free_name(self) -> str:
        taken = {name.partition(".")[0] for name in (*self.saved, *self.canonical, *self.layers)}
        count = 0
        while f"constant{count}_" in taken:
            count += 1
        return f"constant{count}_"

    def counts_batch(self, node: Any) -> bool:
        """Whether a node is a constant that numbers the samples along its first axis."""
        found = self.constants.values.get(node)
        return found is not None and all(
            isinstance(each, Tensor)
            and each.dim() > 0
            and each.shape[0] == each.numel() == batch
            and torch.equal(each.flatten(), torch.arange(batch))
            for each, batch in zip(found, self.batches, strict=True)
        )

    def bare(self, path: str) -> dict[str, Any]:
        """The layer that a parameter of its own is."""
        made = {"kind": "parameter", "path": path, "shape": list(self.parameters[path].shape)}
        rows = self.zero_rows.get(self.canonical[path], ())
        return made | {"weight": law_of(self.drawn(path), "parameter")} | ({"zero_rows": rows} if rows else {})

    def drawn(self, path: str) -> Tensor:
        """The numbers of a parameter that its law gives: all of them but those of its rows of padding."""
        value, rows = self.parameters[path], self.zero_rows.get(self.canonical[path], ())
        return value[[row for row in range(len(value)) if row not in rows]] if rows else value

    def value(self, node: Any) -> int:
        """The index of a node's value. Raises ``Missing``."""
        if not isinstance(node, fx.Node):
            raise Missing(f"a number {node!r} where a tensor is expected")
        if node in self.constants.values and not isinstance(self.values.get(node), int):
            return self.constant(node)
        if node not in self.values and node in self.piece.parameters:
            self.values[node] = self.parameter(node)
        found = self.values.get(node)
        if found is None:
            what = self.piece.buffers.get(node)
            raise Missing(
                f"it reads the buffer {what!r}, whose numbers are not there on this device"
                if what is not None
                else f"it reads {node.name!r}, a constant or an input of its own"
            )
        if isinstance(found, Missing):
            raise found
        if not isinstance(found, int):
            raise Missing(f"it reads all results of {node.name!r} at once")
        return found

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's result, sizes that grow with the batch as negative multiples of it."""
        return self.scaled(node.meta.get("val"), self.other[node].meta.get("val"))

    def scaled(self, one: Any, two: Any) -> tuple[int, ...]:
        """The shape of a tensor from both traces."""
        if not isinstance(one, Tensor) or not isinstance(two, Tensor) or one.dim() != two.dim():
            raise Missing("its result is no tensor, or its shape depends on the batch")
        first, second = self.batches
        found = []
        for a, b in zip(map(int, one.shape), map(int, two.shape), strict=True):
            if a == b:
                found.append(a)
            elif a * second == b * first and a % first == 0:
                found.append(-(a // first))
            else:
                raise Missing("its shape depends on the size of the batch in another way")
        return tuple(found)

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The innermost module that a node was called in; None where the model has none at its path."""
        try:
            return self.model.get_submodule(self.piece.module(node))
        except AttributeError:
            return None

    def module_at(self, node: fx.Node) -> str:
        """The path of the module that a node without parameters stands for, or one of its own beside it."""
        path, module = self.piece.module(node), self.module_of(node)
        if path and module is not None and not list(module.children()) and not list(module.parameters()):
            return path
        return f"{path}.norm{len(self.layers)}_" if path else f"norm{len(self.layers)}_"

    def momentum(self, path: str, given: float) -> float | None:
        """That of a batch norm, whose own says where it is the plain mean of all batches."""
        try:
            module = self.model.get_submodule(path)
        except AttributeError:
            return given
        return module.momentum if isinstance(module, _BatchNorm) else given


Given = Mapping[str, Any]
#: Adds what an operator is to the graph, and gives its value; raises ``Missing``.
Converter = Callable[[Builder, fx.Node, Given], Any]


def number_of(value: Any) -> float:
    """A constant of an operator. Raises ``Missing``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Missing(f"its constant {value!r} is no number")
    return float(value)


def node_of(value: Any) -> fx.Node:
    """A tensor that an operator reads. Raises ``Missing``."""
    if not isinstance(value, fx.Node):
        raise Missing("a number where a tensor is expected")
    return value
