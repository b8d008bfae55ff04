"""Elementwise operations of a graph by their values: which function of one number stands between two of its nodes.

From a node on, every operation that works elementwise on what derives from that node alone is a function of its
numbers. Where all of these lead to one node, and nothing else reads what is between, they are one function, whatever it
is written with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from collegium.search.networks.activation import Activation, ActivationName
from collegium.search.networks.graph.spec import Node

Values = np.ndarray
#: Numbers at which functions are compared, close together near zero: a threshold of 10⁻⁴, or an end at 40, is seen.
_HALF = np.logspace(-4, math.log10(40), 300)
GRID: Values = np.concatenate((-_HALF[::-1], [0.0], _HALF))
RELATIVE, ABSOLUTE = 1e-4, 1e-5
#: A function that is written out in more operations is not followed.
LONGEST = 128

_erf = np.vectorize(math.erf, otypes=[float])


def _searched(name: ActivationName, *usual: float) -> Callable[..., Values]:
    """An activation that is searched; its usual parameter where none is given."""
    return lambda z, *given: Activation(name, *(given or usual))(z)


def _softplus(z: Values, beta: float = 1.0, threshold: float = 20.0) -> Values:
    return np.where(beta * z > threshold, z, np.logaddexp(0, beta * z) / beta)


#: Functions with a name, with the constants that PyTorch's have and their usual values.
NAMED: Mapping[str, Callable[..., Values]] = {
    **{
        name: _searched(name)
        for name in ("relu", "relu6", "selu", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "sigmoid", "tanh")
    },
    "leaky_relu": _searched("leaky_relu", 0.01),
    "elu": _searched("elu", 1.0),
    "celu": _searched("celu", 1.0),
    "hardsigmoid": lambda z: np.clip(z + 3, 0, 6) / 6,
    "logsigmoid": lambda z: -np.logaddexp(0, -z),
    "tanhshrink": lambda z: z - np.tanh(z),
    "hardtanh": lambda z, low=-1.0, high=1.0: np.clip(z, low, high),
    "softplus": _softplus,
    "softsign": lambda z: z / (1 + np.abs(z)),
    "hardshrink": lambda z, most=0.5: np.where(np.abs(z) > most, z, 0),
    "softshrink": lambda z, most=0.5: np.sign(z) * np.maximum(np.abs(z) - most, 0),
}
_RELATIONS: Mapping[str, Callable[..., Values]] = {
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal,
    "greater": np.greater, "greater_equal": np.greater_equal,
}  # fmt: skip
#: What elementwise operations compute from what they read and their options.
OPERATIONS: Mapping[str, Callable[..., Values]] = {
    **{name: form for name, form in NAMED.items() if name not in ("gelu_tanh", "logsigmoid", "tanhshrink", "softsign")},
    "gelu": lambda z, approximate="none": NAMED["gelu_tanh" if approximate == "tanh" else "gelu"](z),
    "elu": lambda z, alpha=1.0: NAMED["elu"](z, alpha),
    "celu": lambda z, alpha=1.0: NAMED["celu"](z, alpha),
    "leaky_relu": lambda z, negative_slope=0.01: NAMED["leaky_relu"](z, negative_slope),
    "hardtanh": lambda z, min_val=-1.0, max_val=1.0: np.clip(z, min_val, max_val),
    "hardshrink": lambda z, lambd=0.5: NAMED["hardshrink"](z, lambd),
    "softshrink": lambda z, lambd=0.5: NAMED["softshrink"](z, lambd),
    "log_sigmoid": NAMED["logsigmoid"],
    "exp": np.exp,
    "erf": _erf,
    "sqrt": np.sqrt,
    "rsqrt": lambda z: 1 / np.sqrt(z),
    "abs": np.abs,
    "neg": np.negative,
    "square": np.square,
    "reciprocal": np.reciprocal,
    "sin": np.sin,
    "cos": np.cos,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "add_number": lambda z, number: z + number,
    "multiply_number": lambda z, number: z * number,
    "power": lambda z, exponent: np.power(z, exponent),
    "at_least": lambda z, number: np.maximum(z, number),
    "at_most": lambda z, number: np.minimum(z, number),
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "compare": lambda z, relation, number: _RELATIONS[relation](z, number),
    "as_number": lambda z: z.astype(float),
    "both": np.logical_and,
    "not": np.logical_not,
    "fill_where": lambda z, mask, number: np.where(mask, float(number), z),
    "where": np.where,
    # in evaluation
    "dropout": lambda z, rate: z,
    "feature_dropout": lambda z, rate: z,
}


def region(index: int, readers: Mapping[int, Sequence[int]], nodes: Sequence[Node]) -> list[int]:
    """The nodes that make one function of the numbers of node ``index``, in order; empty where there are none.

    Nodes are counted from 1, in the order of ``nodes``; ``readers`` has those that read each.
    """
    found: dict[int, None] = {}
    pending = set(readers.get(index, ()))
    while pending and len(found) < LONGEST:
        current = min(pending)  # nodes read earlier ones alone
        node = nodes[current - 1]
        if node.op not in OPERATIONS or not all(each == index or each in found for each in node.reads):
            return []
        found[current] = None
        pending.remove(current)
        if not pending:
            return list(found)
        pending |= {each for each in readers.get(current, ()) if each not in found}
    return []


def values(index: int, found: Sequence[int], nodes: Sequence[Node], at: Values) -> Values:
    """The function that the ``region`` ``found`` of node ``index`` is, at these numbers; NaN where it has no value."""
    computed: dict[int, Any] = {index: at}
    with np.errstate(all="ignore"):
        for each in found:
            node = nodes[each - 1]
            computed[each] = OPERATIONS[node.op](*(computed[read] for read in node.reads), **node.options)
    return np.asarray(computed[found[-1]], float)


def agree(one: Values, other: Values) -> bool:
    """Whether two functions have the same values, to the precision in which they are recognised."""
    return bool(np.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE))
