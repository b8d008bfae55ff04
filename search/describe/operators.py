"""Nodes of a traced graph by what they do: their operator's name and arguments, and which reads are of no account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

#: Operators that read nothing but the shape or type of a tensor.
_UNREAD = {"_assert_tensor_metadata", "sym_size", "sym_stride", "sym_numel", "size", "_shape_as_tensor"}
#: Copies, and changes of type or memory layout.
COPIES = {"clone", "contiguous", "to", "_to_copy", "alias", "lift_fresh_copy", "type_as", "_autocast_to_full_precision"}
#: Rearrangements in which numbers keep their order in memory.
RESHAPES = {"view", "reshape", "_unsafe_view", "_reshape_copy", "flatten", "unflatten", "squeeze", "unsqueeze"}
#: Those of them whose arguments name no size.
SIZELESS = {"flatten", "squeeze", "unsqueeze"}
#: Rearrangements of whole axes.
PERMUTATIONS = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "numpy_T", "mT"}
NORMS = {
    "batch_norm": "batch",
    "instance_norm": "instance",
    "group_norm": "group",
    "layer_norm": "layer",
    "rms_norm": "rms",
}
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}

_REASONS = (
    ({"add", "sub", "rsub"}, "a sum with another map reads its outputs, as a skip connection does"),
    ({"mul", "div"}, "its outputs are multiplied with another map, as by a gate"),
    ({"cat", "concat", "concatenate", "stack", "hstack", "vstack"}, "its outputs are concatenated"),
    (
        {"scaled_dot_product_attention", "matmul", "bmm", "baddbmm", "einsum", "mm", "addmm"},
        "a product with another map reads its outputs, as attention does",
    ),
    (RESHAPES, "its outputs are reshaped, to an axis or a size that the code names"),
    (PERMUTATIONS, "its outputs are rearranged"),
    (
        {"split", "split_with_sizes", "chunk", "unbind", "slice", "select", "narrow", "index", "index_select"},
        "its outputs are divided",
    ),
    ({"pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"}, "its outputs are padded along another axis"),
    ({"softmax", "log_softmax", "_softmax"}, "a softmax reads its outputs"),
    (RECURRENT, "a recurrent cell reads its outputs"),
    ({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}, "a transposed convolution reads its outputs"),
    ({"detach"}, "no gradient passes its outputs"),
)  # fmt: skip


def name_of(node: fx.Node) -> str:
    """The operator's name, as ``conv2d`` or ``relu`` also where it writes in place; empty for what is no call."""
    if node.op != "call_function":
        return ""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.partition("::")[2].rstrip("_")
    return getattr(node.target, "__name__", str(node.target))


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by name, with the defaults of its schema."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return dict(enumerate_named(node))
    found: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):
        if index < len(node.args):
            found[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        else:
            found[argument.name] = argument.default_value
    return found


def enumerate_named(node: fx.Node) -> Iterator[tuple[str, Any]]:
    """Arguments of a function without a schema, by their places."""
    yield from ((str(index), value) for index, value in enumerate(node.args))
    yield from node.kwargs.items()


def readers(node: fx.Node) -> list[fx.Node]:
    """Who reads the numbers of a node; what reads its shape alone is left out."""
    return [user for user in node.users if name_of(user) not in _UNREAD]


def value_of(node: fx.Node) -> torch.Tensor | None:
    """The tensor without memory that stands for the node's result; None where it is none."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of the node's result; empty where it is no tensor."""
    value = value_of(node)
    return () if value is None else tuple(int(size) for size in value.shape)


def module_of(node: fx.Node) -> str:
    """The path of the innermost module that a node was called in, below the root of its graph."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0] if stack else ""


def is_pointwise(node: fx.Node) -> bool:
    """Whether each number of the result depends on the numbers at the same place alone."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def reason_of(reader: fx.Node) -> str:
    """Why an inner width cannot be changed that this node reads."""
    if reader.op == "output":
        return "its outputs are outputs of the network"
    name = name_of(reader)
    for names, reason in _REASONS:
        if name in names:
            return reason
    return f"'{name}' reads its outputs, which is no layer of a branch"
