"""Recurrent layers of a trace, as layers of a graph; their single cells, as what they compute."""

from __future__ import annotations

from typing import Any

from torch import fx

from collegium.search.describe.graphs.builder import Builder, Converter, Given
from collegium.search.describe.graphs.laws import law_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.operators import arguments, name_of, readers


def _recurrent(builder: Builder, node: fx.Node, given: Given) -> list[int | None]:
    """Outputs, last hidden states, and of an LSTM those of its cells; states only where something reads them.

    That is a property of the layer: where one of its calls has states that are read, all of them give theirs.
    """
    cell, read = name_of(node), builder.value(given["input"])
    states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    reads = [read, *([] if all(_zeros(builder, each) for each in states) else map(builder.value, states))]
    path, names = _module(builder, given["params"])
    layer = _layer(builder, cell, path, names, given)
    layer["states"] = any(_reads_states(each) for each in _calls(builder, cell, given["params"]))
    traced = zip(node.meta["val"], builder.other[node].meta["val"], strict=True)
    shapes = [builder.scaled(one, two) for one, two in traced]
    if not layer["states"]:
        return [builder.layer(path, layer, reads, shapes[0]), None, None]
    return _parts(builder, path, layer, reads, shapes)


def _calls(builder: Builder, cell: str, params: Any) -> list[fx.Node]:
    """The nodes that apply the layer with these parameters."""
    nodes = builder.piece.graph.nodes
    return [node for node in nodes if name_of(node) == cell and arguments(node)["params"] == params]


def _reads_states(node: fx.Node) -> bool:
    return any(each.args[1] != 0 and readers(each) for each in readers(node))


def _layer(builder: Builder, cell: str, path: str, names: dict[str, str], given: Given) -> dict[str, Any]:
    first, hidden = builder.parameters[f"{path}.weight_ih_l0"], builder.parameters[f"{path}.weight_hh_l0"].shape[1]
    laws = {name: law_of(builder.parameters[full], "weight", hidden) for name, full in names.items()}
    count = int(given["num_layers"])
    return {
        "kind": "recurrent",
        "path": path,
        "cell": cell,
        "inputs": first.shape[1],
        "hidden": hidden,
        "count": count,
        "bidirectional": bool(given["bidirectional"]),
        "bias": bool(given["has_biases"]),
        "batch_first": bool(given["batch_first"]),
        "dropout": float(given["dropout"]) if count > 1 else 0.0,
        "laws": laws,
    }


def _module(builder: Builder, params: Any) -> tuple[str, dict[str, str]]:
    """The module whose parameters these are, and their own names with the full ones. Raises ``Missing``."""
    full = [builder.piece.parameters.get(each, "") for each in params]
    paths = {name.rpartition(".")[0] for name in full}
    if len(paths) != 1 or "" in paths or any("_hr_" in name for name in full):
        raise Missing("its weights are not the parameters of one module, or it has projections")
    return paths.pop(), {name.rpartition(".")[2]: name for name in full}


def _parts(
    builder: Builder, path: str, layer: dict[str, Any], reads: list[int], shapes: list[tuple[int, ...]]
) -> list[int | None]:
    """Each result out of the row of all of them."""
    turned = [place > 0 or not layer["batch_first"] for place in range(len(shapes))]
    moved = [_samples_first(shape) if turn else shape for shape, turn in zip(shapes, turned, strict=True)]
    sizes, batch = [shape[1] * shape[2] for shape in moved], moved[0][0]
    whole = builder.layer(path, layer, reads, (batch, sum(sizes)))
    found: list[int | None] = []
    for place, (own, size) in enumerate(zip(moved, sizes, strict=True)):
        start = sum(sizes[:place])
        part = builder.emit("slice", [whole], (batch, size), axis=1, start=start, end=start + size, step=1)
        part = builder.emit("reshape", [part], own, shape=own)
        found.append(builder.emit("permute", [part], shapes[place], order=(1, 0, 2)) if turned[place] else part)
    return found


def _samples_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3 or shape[1] >= 0:
        raise Missing("it reads one sequence without a batch, or its samples are not along one axis")
    return (shape[1], shape[0], shape[2])


def _zeros(builder: Builder, node: Any) -> bool:
    """Whether a node is a constant of zeros."""
    found = builder.constants.values.get(node)
    return found is not None and not any(bool(each.any()) for each in found)


class _Cell:
    """One step of a cell: its input and last hidden state through its two weights, and what is made of them."""

    def __init__(self, builder: Builder, given: Given, hidden: Any) -> None:
        self._builder = builder
        weights = given["w_ih"], given["w_hh"]
        rows, self._size = builder.shape(weights[1])
        for each in (*weights, given["b_ih"], given["b_hh"]):
            self._start(each)
        self._batch = builder.shape(given["input"])[0]
        reads = builder.value(given["input"]), builder.value(hidden)
        self.given, self.last = (
            builder.emit("linear", [read, *map(builder.value, own)], (self._batch, rows))
            for read, own in zip(reads, (_own(given, "ih"), _own(given, "hh")), strict=True)
        )

    def _start(self, node: Any) -> None:
        """The law of a weight or bias, as of a recurrent layer of this size."""
        path = self._builder.piece.parameters.get(node)
        if path is not None and self._builder.canonical[path] == path:
            found = self._builder.bare(path)
            law = law_of(self._builder.parameters[path], "weight", self._size)
            self._builder.layers.setdefault(path, found | {"weight": law})

    def part(self, value: int, place: int) -> int:
        """The numbers of one gate."""
        start = place * self._size
        options = {"axis": 1, "start": start, "end": start + self._size, "step": 1}
        return self._builder.emit("slice", [value], (self._batch, self._size), **options)

    def __call__(self, op: str, *reads: int, wide: int = 1) -> int:
        """An operation on the numbers of a gate, or of several at once."""
        return self._builder.emit(op, reads, (self._batch, wide * self._size))


def _own(given: Given, ends: str) -> list[Any]:
    return [each for each in (given[f"w_{ends}"], given[f"b_{ends}"]) if each is not None]


def _lstm_cell(builder: Builder, node: fx.Node, given: Given) -> list[int]:
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c')."""
    hidden, memory = given["hx"]
    cell = _Cell(builder, given, hidden)
    gates = cell("add", cell.given, cell.last, wide=4)
    i, f, g, o = (cell.part(gates, place) for place in range(4))
    kept = cell("mul", cell("sigmoid", f), builder.value(memory))
    found = cell("add", kept, cell("mul", cell("sigmoid", i), cell("tanh", g)))
    return [cell("mul", cell("sigmoid", o), cell("tanh", found)), found]


def _gru_cell(builder: Builder, node: fx.Node, given: Given) -> int:
    """h' = (1 - σ(z)) n + σ(z) h with n = tanh(x_n + σ(r) h_n)."""
    cell = _Cell(builder, given, given["hx"])
    r, z = (
        cell("sigmoid", cell("add", cell.part(cell.given, place), cell.part(cell.last, place))) for place in range(2)
    )
    new = cell("tanh", cell("add", cell.part(cell.given, 2), cell("mul", r, cell.part(cell.last, 2))))
    return cell("add", new, cell("mul", z, cell("sub", builder.value(given["hx"]), new)))


def _plain_cell(builder: Builder, node: fx.Node, given: Given) -> int:
    """h' is the activation of the sum."""
    cell = _Cell(builder, given, given["hx"])
    return cell("relu" if "relu" in name_of(node) else "tanh", cell("add", cell.given, cell.last))


#: Recurrent layers, and their cells.
RECURRENT_LAYERS: dict[str, Converter] = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "lstm_cell": _lstm_cell,
    "gru_cell": _gru_cell,
    "rnn_tanh_cell": _plain_cell,
    "rnn_relu_cell": _plain_cell,
}
