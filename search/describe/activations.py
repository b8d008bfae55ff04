"""Elementwise functions in a graph: what one is called, also where it is written out in several operations.

From a node on, every operator that works elementwise on what derives from that node alone is a function of its numbers.
Where all of these lead to one node, and nothing else reads what is between, they are one function of one number. It is
recognised by its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from collegium.search.describe.operators import arguments, is_pointwise, name_of, readers, shape_of
from collegium.search.networks.activation import SELU_ALPHA, SELU_SCALE
from collegium.search.networks.families.network_layers import ActivationLayer
from collegium.search.networks.graph.pointwise import GRID, NAMED

#: Operators of one function, with the arguments that are its constants.
_NAMED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "relu": ("relu", ()),
    "relu6": ("relu6", ()),
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
    "elu": ("elu", ("alpha",)),
    "celu": ("celu", ("alpha",)),
    "selu": ("selu", ()),
    "silu": ("silu", ()),
    "mish": ("mish", ()),
    "hardswish": ("hardswish", ()),
    "sigmoid": ("sigmoid", ()),
    "hardsigmoid": ("hardsigmoid", ()),
    "log_sigmoid": ("logsigmoid", ()),
    "tanh": ("tanh", ()),
    "hardtanh": ("hardtanh", ("min_val", "max_val")),
    "softplus": ("softplus", ("beta", "threshold")),
    "hardshrink": ("hardshrink", ("lambd",)),
    "softshrink": ("softshrink", ("lambd",)),
}
#: Functions that are looked for where they are written out by hand, in their usual form.
_WRITTEN = (
    "relu", "relu6", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "selu", "elu", "softplus", "sigmoid",
    "hardsigmoid", "tanh", "tanhshrink", "softsign",
)  # fmt: skip
#: The largest constant that a specification holds.
_LARGEST = 1e12
#: How near values are to those of the function that is recognised, in single precision.
_TOLERANCE = 1e-5


def activation_from(node: fx.Node) -> tuple[ActivationLayer, fx.Node] | None:
    """The elementwise function that reads a node, and the node of its result; None where what reads it is none.

    One operator is what it is called; of several in a row, as many as make a function with a name are one.
    """
    first = _region(node)
    if not first:
        return None
    found = _named(first[-1]) if len(first) == 1 else None
    if found is not None:
        return found, first[-1]
    regions = [first]
    while len(regions) < _LONGEST and (following := _region(regions[-1][-1])):
        regions.append(following)
    for count in range(len(regions), 0, -1):
        whole = [each for region in regions[:count] for each in region]
        name = _recognised(node, whole)
        if name is not None:
            return _layer(name), whole[-1]
    return _layer("other"), first[-1]


def _region(node: fx.Node) -> list[fx.Node]:
    """The operations that make one function of the node's numbers, in order; empty where there are none."""
    found: dict[fx.Node, None] = {}
    pending = dict.fromkeys(readers(node))
    while pending and len(found) < _LONGEST:
        current = next((each for each in pending if _derives(each, node, found)), None)
        if current is None:
            return []
        found[current] = None
        del pending[current]
        if not pending:
            return list(found)
        pending |= dict.fromkeys(each for each in readers(current) if each not in found)
    return []


#: A function that is written out in more operations is not looked for.
_LONGEST = 32


def _derives(current: fx.Node, node: fx.Node, found: Mapping[fx.Node, None]) -> bool:
    """Whether an elementwise operator reads nothing but numbers, the node and what derives from it."""
    inputs = current.all_input_nodes
    return (
        bool(inputs)
        and (is_pointwise(current) or name_of(current) in _NAMED)
        and all(each is node or each in found for each in inputs)
        and shape_of(current) == shape_of(node)
    )


def _named(node: fx.Node) -> ActivationLayer | None:
    name, given = name_of(node), arguments(node)
    if name == "gelu":
        function, parameters = ("gelu_tanh" if given["approximate"] == "tanh" else "gelu"), ()
    elif name in _NAMED:
        function, constants = _NAMED[name]
        parameters = tuple(float(given[constant]) for constant in constants)
        if name == "elu" and (given["scale"], given["input_scale"]) != (1, 1):
            return _scaled_elu(parameters[0], float(given["scale"]), float(given["input_scale"]))
    else:
        return None
    if (function, parameters) == ("hardtanh", (0.0, 6.0)):
        function, parameters = "relu6", ()
    bounded = all(abs(each) <= _LARGEST for each in parameters)
    return _layer(function, parameters) if bounded else _layer("other")


def _scaled_elu(alpha: float, scale: float, input_scale: float) -> ActivationLayer | None:
    """The SELU or CELU that an ELU with scales is, as decompositions write them; None for any other."""
    if math.isclose(alpha, SELU_ALPHA) and math.isclose(scale, SELU_SCALE) and input_scale == 1:
        return _layer("selu")
    if scale == 1 and alpha > 0 and math.isclose(input_scale, 1 / alpha):
        return _layer("celu", (alpha,))
    return None


def _layer(function: str, parameters: tuple[float, ...] = ()) -> ActivationLayer:
    return ActivationLayer.model_validate({"kind": "activation", "function": function, "parameters": parameters})


def _recognised(node: fx.Node, region: list[fx.Node]) -> str | None:
    """The name of the function that has the region's values; None where there is none."""
    grid = torch.from_numpy(GRID).float()
    values: dict[fx.Node, Any] = {node: grid}
    try:
        for each in region:
            args = map_arg(each.args, lambda argument: values[argument].clone())
            kwargs = map_arg(each.kwargs, lambda argument: values[argument].clone())
            assert callable(each.target)
            values[each] = each.target(*args, **kwargs)
    except RuntimeError:
        return None
    result = values[region[-1]].double().numpy()
    for name in _WRITTEN:
        if np.allclose(result, NAMED[name](GRID), rtol=_TOLERANCE, atol=_TOLERANCE):
            return name
    return None
