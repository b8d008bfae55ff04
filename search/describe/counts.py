"""Multiply–accumulates of operators that are no weight layers: attention, recurrent cells, transposed convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

from collegium.search.describe.operators import (
    COPIES,
    PERMUTATIONS,
    RECURRENT,
    RESHAPES,
    arguments,
    is_pointwise,
    name_of,
    shape_of,
    value_of,
)

_NONE = {*COPIES, *PERMUTATIONS, *RESHAPES, "getitem", "dropout", "batch_norm", "layer_norm", "expand", "slice", "cat"}
_CELLS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


def flops_of(node: fx.Node) -> int:
    """Multiply–accumulates of one node for the whole batch, as ``torch.utils.flop_counter`` counts them.

    That does not know recurrent layers: at each step every matrix is read once. Nor does it count ``einsum`` where an
    axis that is summed has size one.
    """
    name = name_of(node)
    if is_region(node):
        return _inside(node, name)
    if node.op != "call_function" or name in _NONE or is_pointwise(node):
        return 0
    if name in _CELLS:
        return _recurrent(node)
    if name == "einsum" and (found := _summed(node)):
        return found
    # A kernel that computes attention at once is not counted; without a device there is none.
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            assert callable(node.target)
            node.target(*_shapes(node.args), **_shapes(node.kwargs))
    except (RuntimeError, TypeError, IndexError):
        return 0
    return counter.get_total_flops() // 2


def is_recurrent(node: fx.Node) -> bool:
    """Whether the node is a recurrent layer or cell."""
    return name_of(node) in RECURRENT


def is_region(node: fx.Node) -> bool:
    """Whether the node is a graph of its own, as code under ``torch.no_grad`` or ``torch.autocast`` is."""
    return isinstance(node.target, torch._ops.HigherOrderOperator)


def _inside(node: fx.Node, name: str) -> int:
    """All of a region's nodes; of two that exclude each other, the larger one's."""
    owner = node.graph.owning_module
    graphs = [getattr(owner, str(each.target)) for each in node.all_input_nodes if each.op == "get_attr"]
    counts = [sum(map(flops_of, each.graph.nodes)) for each in graphs if isinstance(each, fx.GraphModule)]
    return max(counts, default=0) if name == "cond" else sum(counts)


def _recurrent(node: fx.Node) -> int:
    given = arguments(node)
    shape = shape_of(given["input" if "input" in given else "data"])
    steps = 1
    for size in shape[:-1]:
        steps *= size
    weights = (value for each in given["params"] if (value := value_of(each)) is not None)
    return steps * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _summed(node: fx.Node) -> int:
    """Products in the sum of two operands over what they share; 0 where that is not what ``einsum`` does."""
    given = arguments(node)
    reads, _, gives = str(given["equation"]).replace(" ", "").replace("...", "").partition("->")
    terms, operands = reads.split(","), [shape_of(each) for each in given["tensors"]]
    if len(terms) != 2 or len(operands) != 2 or any(len(set(term)) != len(term) for term in terms):
        return 0
    shared = {letter for letter in terms[0] if letter in terms[1] and letter not in gives}
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        sizes |= zip(term, shape[len(shape) - len(term) :], strict=True)
    return math.prod(shape_of(node)) * math.prod(sizes[letter] for letter in shared) if shared and gives else 0


def _shapes(value: Any) -> Any:
    """The arguments with tensors that have no device in the place of nodes."""
    return map_arg(value, lambda node: _without_memory(node.meta.get("val")))


def _without_memory(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    shape = [int(size) for size in value.shape]
    # under autocast operators read numbers of several types, which they would not take by themselves
    dtype = torch.float32 if value.dtype.is_floating_point else value.dtype
    return torch.empty(shape, dtype=dtype, device="meta")
