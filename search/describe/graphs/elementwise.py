"""Operators of numbers at the same place, and products of matrices, as operations of a graph."""

from __future__ import annotations

from typing import Any

from torch import fx

from collegium.search.describe.graphs.builder import Builder, Converter, Given, node_of, number_of
from collegium.search.describe.graphs.constants import content_of
from collegium.search.describe.graphs.missing import Missing


def _function(name: str, **constants: str) -> Converter:
    """A function of one number; ``constants`` are its options with the arguments that they are."""

    def convert(builder: Builder, node: fx.Node, given: Given) -> int:
        read = given.get("self", given.get("input"))
        options = {option: number_of(given[argument]) for option, argument in constants.items()}
        return builder.emit(name, [builder.value(read)], builder.shape(node), **options)

    return convert


def _gelu(builder: Builder, node: fx.Node, given: Given) -> int:
    return builder.emit("gelu", [builder.value(given["self"])], builder.shape(node), approximate=given["approximate"])


def _elu(builder: Builder, node: fx.Node, given: Given) -> int:
    if (given["scale"], given["input_scale"]) != (1, 1):
        raise Missing("an elu with a scale")
    return builder.emit("elu", [builder.value(given["self"])], builder.shape(node), alpha=number_of(given["alpha"]))


def _clamp(builder: Builder, node: fx.Node, given: Given) -> int:
    found, shape = builder.value(given["self"]), builder.shape(node)
    for name, argument in (("at_least", "min"), ("at_most", "max")):
        if given.get(argument) is not None:
            found = builder.emit(name, [found], shape, number=number_of(given[argument]))
    return found


def _sum(builder: Builder, node: fx.Node, given: Given) -> int:
    """``self + alpha · other``."""
    return _added(builder, node, given["self"], given["other"], number_of(given.get("alpha", 1)))


def _difference(builder: Builder, node: fx.Node, given: Given) -> int:
    """``self - alpha · other``."""
    alpha = number_of(given.get("alpha", 1))
    if isinstance(given["other"], fx.Node) and alpha == 1:
        reads = [builder.value(given["self"]), builder.value(given["other"])]
        return builder.emit("sub", reads, builder.shape(node))
    return _added(builder, node, given["self"], given["other"], -alpha)


def _reversed_difference(builder: Builder, node: fx.Node, given: Given) -> int:
    """``other - alpha · self``."""
    shape = builder.shape(node)
    alpha = number_of(given.get("alpha", 1))
    negative = builder.emit("multiply_number", [builder.value(given["self"])], shape, number=-alpha)
    return builder.emit("add_number", [negative], shape, number=number_of(given["other"]))


def _added(builder: Builder, node: fx.Node, one: Any, other: Any, alpha: float) -> int:
    shape = builder.shape(node)
    if not isinstance(one, fx.Node):
        one, other = other, one
        if alpha != 1:
            raise Missing("a multiple of a sum's first term")
    first = builder.value(one)
    if not isinstance(other, fx.Node):
        return builder.emit("add_number", [first], shape, number=_of_kind(one, alpha * number_of(other)))
    second = builder.value(other)
    if alpha != 1:
        second = builder.emit("multiply_number", [second], builder.shape(other), number=_of_kind(other, alpha))
    return builder.emit("add", [first, second], shape)


def _of_kind(node: fx.Node, number: float) -> float:
    """A number beside a tensor, as an integer where the tensor holds integers. Raises ``Missing`` where it is none."""
    if content_of(node.meta["val"]) == "number":
        return number
    if number != int(number):
        raise Missing("integers become numbers")
    return int(number)


def _cumsum(builder: Builder, node: fx.Node, given: Given) -> int:
    source, shape = node_of(given["self"]), builder.shape(node)
    if content_of(node.meta["val"]) != content_of(source.meta["val"]):
        raise Missing("its sums are of another kind than what is summed")
    return builder.emit("cumsum", [builder.value(source)], shape, axis=given["dim"] % len(shape))


def _product(builder: Builder, node: fx.Node, given: Given) -> int:
    one, other, shape = given["self"], given["other"], builder.shape(node)
    if not isinstance(one, fx.Node):
        one, other = other, one
    if not isinstance(other, fx.Node):
        return builder.emit("multiply_number", [builder.value(one)], shape, number=_of_kind(one, number_of(other)))
    return builder.emit("mul", [builder.value(one), builder.value(other)], shape)


def _quotient(builder: Builder, node: fx.Node, given: Given) -> int:
    if given.get("rounding_mode") is not None:
        raise Missing("a division that rounds")
    one, other, shape = given["self"], given["other"], builder.shape(node)
    if not isinstance(other, fx.Node):
        return builder.emit("multiply_number", [builder.value(one)], shape, number=1 / number_of(other))
    if not isinstance(one, fx.Node):
        inverse = builder.emit("reciprocal", [builder.value(other)], shape)
        return builder.emit("multiply_number", [inverse], shape, number=number_of(one))
    return builder.emit("div", [builder.value(one), builder.value(other)], shape)


def _of_two(name: str) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> int:
        second = given.get("other", given.get("mat2"))
        return builder.emit(name, [builder.value(given["self"]), builder.value(second)], builder.shape(node))

    return convert


def _addmm(builder: Builder, node: fx.Node, given: Given) -> int:
    if (given["beta"], given["alpha"]) != (1, 1):
        raise Missing("multiples of a product's terms")
    product = builder.emit("matmul", [builder.value(given["mat1"]), builder.value(given["mat2"])], builder.shape(node))
    return builder.emit("add", [product, builder.value(given["self"])], builder.shape(node))


def _dropout(name: str) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> int:
        read = given["input"] if "input" in given else given["self"]
        found, rate = builder.value(read), number_of(given["p"])
        return found if rate == 0 else builder.emit(name, [found], builder.shape(node), rate=rate)

    return convert


#: Operators of numbers at the same place, and products of matrices.
ELEMENTWISE: dict[str, Converter] = {
    **{
        name: _function(name)
        for name in (
            "relu", "relu6", "selu", "silu", "mish", "hardswish", "sigmoid", "hardsigmoid", "log_sigmoid", "tanh",
            "exp", "erf", "sqrt", "rsqrt", "abs", "neg", "square", "reciprocal", "sin", "cos", "log", "log1p", "expm1",
        )
    },
    "gelu": _gelu,
    "leaky_relu": _function("leaky_relu", negative_slope="negative_slope"),
    "elu": _elu,
    "celu": _function("celu", alpha="alpha"),
    "hardtanh": _function("hardtanh", min_val="min_val", max_val="max_val"),
    "softplus": _function("softplus", beta="beta", threshold="threshold"),
    "hardshrink": _function("hardshrink", lambd="lambd"),
    "softshrink": _function("softshrink", lambd="lambd"),
    "pow": _function("power", exponent="exponent"),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "add": _sum,
    "sub": _difference,
    "rsub": _reversed_difference,
    "mul": _product,
    "div": _quotient,
    "cumsum": _cumsum,
    "maximum": _of_two("maximum"),
    "minimum": _of_two("minimum"),
    "matmul": _of_two("matmul"),
    "bmm": _of_two("matmul"),
    "mm": _of_two("matmul"),
    "addmm": _addmm,
    "dropout": _dropout("dropout"),
    "feature_dropout": _dropout("feature_dropout"),
}  # fmt: skip
