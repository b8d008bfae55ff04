"""Recurrent layers of a trace, as layers of a graph."""

from __future__ import annotations

from typing import Any

from torch import fx

from collegium.search.describe.graphs.builder import Builder, Converter, Given
from collegium.search.describe.graphs.laws import law_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.operators import name_of, readers


def _recurrent(builder: Builder, node: fx.Node, given: Given) -> list[int | None]:
    """Outputs, last hidden states, and of an LSTM those of its cells; states only where something reads them."""
    cell, read = name_of(node), builder.value(given["input"])
    states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    if not all(_zeros(builder, each) for each in states):
        raise Missing("it starts from states that are given: those of zeros are known")
    path, names = _module(builder, given["params"])
    layer = _layer(builder, cell, path, names, given)
    layer["states"] = any(each.args[1] != 0 and readers(each) for each in readers(node))
    traced = zip(node.meta["val"], builder.other[node].meta["val"], strict=True)
    shapes = [builder.scaled(one, two) for one, two in traced]
    if not layer["states"]:
        return [builder.layer(path, layer, [read], shapes[0]), None, None]
    return _parts(builder, path, layer, read, shapes)


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
    builder: Builder, path: str, layer: dict[str, Any], read: int, shapes: list[tuple[int, ...]]
) -> list[int | None]:
    """Each result out of the row of all of them."""
    turned = [place > 0 or not layer["batch_first"] for place in range(len(shapes))]
    moved = [_samples_first(shape) if turn else shape for shape, turn in zip(shapes, turned, strict=True)]
    sizes, batch = [shape[1] * shape[2] for shape in moved], moved[0][0]
    whole = builder.layer(path, layer, [read], (batch, sum(sizes)))
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


#: Recurrent layers.
RECURRENT_LAYERS: dict[str, Converter] = dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent)
