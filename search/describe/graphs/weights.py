"""Operators with parameters, as layers of a graph; a linear one with parameters of no one module, as an operation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import fx

from collegium.search.describe.graphs.builder import Builder, Converter, Given, node_of
from collegium.search.describe.graphs.laws import Kind, law_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.layers import padding_of, sizes_of
from collegium.search.describe.operators import NORMS, name_of


def _own_path(builder: Builder, named: Mapping[str, Any]) -> str | None:
    """The module whose parameters these are, by name; None where they are of none, or of several."""
    paths = set()
    for name, node in named.items():
        if node is not None:
            path, _, last = builder.piece.parameters.get(node, "").rpartition(".")
            if not path or last != name:
                return None
            paths.add(path)
    return paths.pop() if len(paths) == 1 else None


def _law(builder: Builder, node: Any, kind: Kind, fan_in: int | None = None) -> dict[str, Any] | None:
    return None if node is None else law_of(builder.drawn(builder.piece.parameters[node]), kind, fan_in)


def _linear(builder: Builder, node: fx.Node, given: Given) -> int:
    read, weight, bias = node_of(given["input"]), node_of(given["weight"]), given["bias"]
    shape = builder.shape(node)
    path = _own_path(builder, {"weight": weight, "bias": bias})
    if path is None or len(shape) < 2:
        reads = [builder.value(each) for each in (read, weight, bias) if each is not None]
        return builder.emit("linear", reads, shape)
    outputs, inputs = builder.parameters[f"{path}.weight"].shape
    made = {
        "kind": "linear",
        "path": path,
        "inputs": inputs,
        "outputs": outputs,
        "weight": _law(builder, weight, "weight", inputs),
        "bias": _law(builder, bias, "bias", inputs),
    }
    return builder.layer(path, made, [builder.value(read)], shape)


def _convolution(dimensions: int, transposed: bool) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> int:
        read, weight, bias = node_of(given["input"]), node_of(given["weight"]), given["bias"]
        path = _own_path(builder, {"weight": weight, "bias": bias})
        if path is None:
            raise Missing("its weight and bias are not the parameters of one module")
        found, shape = builder.value(read), builder.shape(node)
        if len(shape) != dimensions + 2:
            raise Missing("it reads a map without a batch")
        own = builder.parameters[f"{path}.weight"]
        kernel, groups = tuple(own.shape[2:]), int(given["groups"])
        dilation = sizes_of(given["dilation"], dimensions)
        padding = padding_of(given["padding"], kernel, dilation)
        if padding is None:
            raise Missing("its padding is not the same on both sides")
        fan_in = own[0].numel()
        made: dict[str, Any] = {
            "kind": "conv",
            "path": path,
            "inputs": own.shape[0] if transposed else own.shape[1] * groups,
            "outputs": own.shape[1] * groups if transposed else own.shape[0],
            "kernel": kernel,
            "stride": sizes_of(given["stride"], dimensions),
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "weight": _law(builder, weight, "weight", fan_in),
            "bias": _law(builder, bias, "bias", fan_in),
        }
        if transposed:
            made |= {"transposed": True, "output_padding": sizes_of(given["output_padding"], dimensions)}
        return builder.layer(path, made, [found], shape)

    return convert


def _norm(builder: Builder, node: fx.Node, given: Given) -> int:
    kind, read = NORMS[name_of(node)], node_of(given["input"])
    found, shape = builder.value(read), builder.shape(node)
    weight, bias = given.get("weight"), given.get("bias")
    if kind in ("layer", "rms") and len(given["normalized_shape"]) != 1:
        raise Missing("it normalizes several axes together")
    if len(shape) < 2:
        raise Missing("it reads numbers without a batch")
    moments = given.get("running_mean")
    if kind == "instance" and moments is not None:
        raise Missing("an instance norm with running moments")
    path = _own_path(builder, {"weight": weight, "bias": bias})
    if path is None and (weight is not None or bias is not None):
        raise Missing("its weight and bias are not the parameters of one module")
    if path is None and moments is not None:
        path = builder.piece.buffers.get(moments, "").rpartition(".")[0]
    path = path or builder.module_at(node)
    epsilon = given["eps"]
    made: dict[str, Any] = {
        "kind": "norm",
        "path": path,
        "norm": kind,
        "channels": shape[-1] if kind in ("layer", "rms") else shape[1],
        "groups": int(given["num_groups"]) if kind == "group" else 1,
        "epsilon": _EPSILON if epsilon is None else float(epsilon),
        "tracked": kind == "batch" and moments is not None,
        "weight": _law(builder, weight, "scale"),
        "bias": _law(builder, bias, "shift"),
    }
    if kind in ("batch", "instance"):
        made["dimensions"] = max(1, len(shape) - 2)
    if kind == "batch":
        made["momentum"] = builder.momentum(path, float(given["momentum"]))
    return builder.layer(path, made, [found], shape)


#: That of an rms norm without one of its own: the spacing of numbers in float32.
_EPSILON = math.ldexp(1.0, -23)
#: Operators with parameters.
WEIGHTED: dict[str, Converter] = {
    "linear": _linear,
    **{f"conv{count}d": _convolution(count, False) for count in (1, 2, 3)},
    **{f"conv_transpose{count}d": _convolution(count, True) for count in (1, 2, 3)},
    **dict.fromkeys(NORMS, _norm),
}
