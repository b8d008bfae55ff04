"""The operations of a graph: their options, the shapes that they give, and their multiply–accumulates.

Nothing here loads torch: a graph that does not hold together is refused before anything is allocated. What computes
each of them is in ``collegium.search.regroup.grouped``, by the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from collegium.search.networks.graph.content import (
    BOOLEANS,
    Content,
    as_numbers,
    attended,
    compared,
    expects,
    of_numbers,
    taken,
    unchanged,
)
from collegium.search.networks.graph.integers import (
    accumulated,
    as_integers,
    multiplied,
    places,
    scaled,
    shifted,
    summed,
)
from collegium.search.networks.graph.shapes import Shape, axis_of, broadcast, numbers, text_of, window_extents


@dataclass(frozen=True)
class Operation:
    """``reads`` is the least and the most it reads, ``options`` their kinds by name, all but ``optional`` ones given.

    ``shape`` is that of its result, from those it reads and its options; it raises ``ValueError``. ``flops`` are
    multiply–accumulates of one sample. A ``view`` needs no memory of its own. ``content`` is what its result holds, by
    what it reads holds, their shapes and its options; it raises ``ValueError``.
    """

    shape: Callable[[Sequence[Shape], Mapping[str, Any]], Shape]
    options: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[int, int] = (1, 1)
    flops: Callable[[Sequence[Shape], Shape], int] = lambda reads, out: 0
    view: bool = False
    content: Callable[[Sequence[Content], Sequence[Shape], Mapping[str, Any]], Content] = of_numbers
    optional: frozenset[str] = frozenset()


def check_options(
    options: Mapping[str, Any], expected: Mapping[str, str], optional: frozenset[str] = frozenset()
) -> None:
    """Raises ``ValueError`` where options but ``optional`` ones are missing, unknown, or of another kind."""
    for name in options.keys() - expected.keys():
        raise ValueError(f"it has no option {name!r}; its options are {', '.join(expected) or 'none'}")
    for name, kind in expected.items():
        if name not in options:
            if name in optional:
                continue
            raise ValueError(f"the option {name!r} is missing")
        if not _is(options[name], kind):
            raise ValueError(f"the option {name!r} must be {_KINDS.get(kind, 'one of ' + kind)}")


_KINDS = {
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "integers": "a list of integers",
    "sizes": "a list of one to three sizes of at least 1",
    "paddings": "a list of one to three sizes of at least 0",
    "rate": "a number from 0 to 1",
    "filling": "a number, or '-inf'",
}


def _is(value: Any, kind: str) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    match kind:
        case "number":
            return whole or isinstance(value, float)
        case "filling":
            return value == "-inf" or whole or isinstance(value, float)
        case "rate":
            return (whole or isinstance(value, float)) and 0 <= value <= 1
        case "integer":
            return whole
        case "boolean":
            return isinstance(value, bool)
        case "integers":
            return isinstance(value, tuple)
        case "sizes":
            return isinstance(value, tuple) and 1 <= len(value) <= 3 and min(value) >= 1
        case "paddings":
            return isinstance(value, tuple) and 1 <= len(value) <= 3 and min(value) >= 0
    return isinstance(value, str) and value in kind.split(", ")


def _same(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    return reads[0]


def _elementwise(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    return broadcast(reads)


def _pool(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,) = reads
    kernel = options["kernel"]
    if len(shape) < len(kernel) + 2:
        raise ValueError(f"a batch of maps with {len(kernel)} dimensions is expected, not {text_of(shape)}")
    if any(2 * pad > size for pad, size in zip(options["padding"], kernel, strict=False)):
        raise ValueError("the option 'padding' may be half of 'kernel' at most")
    dilation = options.get("dilation", (1,) * len(kernel))
    maps = shape[-len(kernel) :]
    extents = window_extents(maps, kernel, options["stride"], options["padding"], dilation, options["ceil_mode"])
    return (*shape[: -len(kernel)], *extents)


def _adaptive(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,) = reads
    output = options["output"]
    if len(shape) < len(output) + 2 or min(shape[-len(output) :]) < 0:
        raise ValueError(f"a batch of maps with {len(output)} dimensions is expected, not {text_of(shape)}")
    return (*shape[: -len(output)], *output)


def _reduced(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,) = reads
    axes = {axis_of(axis, shape) for axis in options["axes"]}
    if not axes:
        raise ValueError("the option 'axes' is empty")
    kept = [1 if axis in axes else size for axis, size in enumerate(shape) if options["keep"] or axis not in axes]
    return tuple(kept)


def _softmax(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    axis_of(options["axis"], reads[0])
    return reads[0]


def _reshape(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,), wanted = reads, tuple(options["shape"])
    same_batch = any(size < 0 for size in shape) == any(size < 0 for size in wanted)
    if not same_batch or numbers(shape) != numbers(wanted):
        raise ValueError(f"a tensor of {text_of(shape)} cannot be reshaped to {text_of(wanted)}")
    return wanted


def _expand(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,), wanted = reads, tuple(options["shape"])
    if not _spreads(shape, wanted):
        raise ValueError(f"a tensor of {text_of(shape)} cannot be expanded to {text_of(wanted)}")
    return wanted


def _permute(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,), order = reads, options["order"]
    if sorted(order) != list(range(len(shape))):
        raise ValueError(f"the option 'order' must name each of {len(shape)} axes once")
    return tuple(shape[axis] for axis in order)


def _cat(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    axis = axis_of(options["axis"], reads[0])
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in reads}
    if len(rest) > 1 or len({len(shape) for shape in reads}) > 1 or any(shape[axis] < 0 for shape in reads):
        raise ValueError(f"tensors of {' and '.join(map(text_of, reads))} cannot be joined along axis {axis}")
    return (*reads[0][:axis], sum(shape[axis] for shape in reads), *reads[0][axis + 1 :])


def _slice(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,) = reads
    axis = axis_of(options["axis"], shape)
    start, end, step = options["start"], options["end"], options["step"]
    if not 0 <= start < end <= shape[axis] or step < 1:
        raise ValueError(f"there is no part {start}:{end}:{step} of the axis {axis} of {text_of(shape)}")
    return (*shape[:axis], -(-(end - start) // step), *shape[axis + 1 :])


def _pad(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,), sizes = reads, options["sizes"]
    if len(sizes) % 2 or not 2 <= len(sizes) <= 2 * len(shape):
        raise ValueError("the option 'sizes' must have two sizes for each axis, the last axis first")
    found = list(shape)
    for place in range(len(sizes) // 2):
        axis, before, after = len(shape) - 1 - place, sizes[2 * place], sizes[2 * place + 1]
        if (before, after) == (0, 0):
            continue
        axis_of(axis, shape)
        most = {"reflect": shape[axis] - 1, "circular": shape[axis]}.get(options["mode"])
        if most is not None and max(before, after) > most:
            raise ValueError(f"an axis of {shape[axis]} cannot be padded so far in the mode {options['mode']!r}")
        if options["mode"] != "constant" and (min(before, after) < 0 or axis < 2):
            raise ValueError(f"the mode {options['mode']!r} pads the axes of a map, by sizes of at least 0")
        found[axis] += before + after
        if found[axis] < 1:
            raise ValueError(f"nothing is left of an axis of {shape[axis]}")
    return tuple(found)


def _resize(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    (shape,), size = reads, options["size"]
    if len(shape) != len(size) + 2 or min(shape[2:]) < 0:
        raise ValueError(f"a batch of maps with {len(size)} dimensions is expected, not {text_of(shape)}")
    needed = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}.get(options["mode"], len(size))
    if needed != len(size):
        raise ValueError(f"the mode {options['mode']!r} is one of maps with {needed} dimensions")
    if options["align_corners"] and options["mode"] == "nearest":
        raise ValueError("the option 'align_corners' must be false in the mode 'nearest'")
    return (*shape[:2], *size)


def _roll(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    axes = [axis_of(axis, reads[0]) for axis in options["axes"]]
    if len(axes) != len(options["shifts"]) or not axes:
        raise ValueError("the options 'shifts' and 'axes' must have as many numbers")
    return reads[0]


def _matmul(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    left, right = reads
    if min(len(left), len(right)) < 2 or left[-1] != right[-2] or left[-1] < 0:
        raise ValueError(f"matrices of {text_of(left)} and {text_of(right)} cannot be multiplied")
    return (*broadcast([left[:-2], right[:-2]]), left[-2], right[-1])


def _spreads(shape: Shape, wanted: Shape) -> bool:
    """Whether a tensor is broadcast to this shape."""
    padded = (1,) * (len(wanted) - len(shape)) + shape
    return len(shape) <= len(wanted) and all(one in (1, other) for one, other in zip(padded, wanted, strict=True))


def _attention(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    query, key, value, *mask = reads
    fits = len(query) == len(key) == len(value) and len(query) >= 3 and query[-1] == key[-1] and key[-2] == value[-2]
    if not fits or query[:-2] != key[:-2] or key[:-2] != value[:-2] or min(query[-2:] + key[-2:] + value[-2:]) < 0:
        raise ValueError(f"queries, keys and values of {', '.join(map(text_of, reads))} do not fit")
    scores = (*query[:-1], key[-2])
    if mask and (options["causal"] or not _spreads(mask[0], scores)):
        raise ValueError(f"a mask of {text_of(mask[0])} does not fit scores of {text_of(scores)}, or is causal twice")
    return (*query[:-1], value[-1])


def _shared_attention(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    """Several heads of queries, along the axis before the last two, read the same keys and values."""
    query, key, value, *mask = reads
    if min(len(query), len(key), len(value)) < 4 or min(query[-3], key[-3]) < 1 or query[-3] % key[-3]:
        raise ValueError(f"heads of queries {text_of(query)} are expected, a multiple of those of keys {text_of(key)}")
    wide = [(*each[:-3], query[-3], *each[-2:]) if each[-3] == key[-3] else each for each in (key, value)]
    return _attention([query, *wide, *mask], options)


def _attends(shape: Callable[[Sequence[Shape], Mapping[str, Any]], Shape]) -> Operation:
    """Scaled products of queries and keys, their softmax, and its product with values."""
    return Operation(
        shape,
        {"scale": "number", "causal": "boolean", "dropout": "rate"},
        (3, 4),
        lambda reads, out: numbers(reads[0][:-1]) * reads[1][-2] * (reads[0][-1] + reads[2][-1]),
        content=attended,
    )


def _cumsum(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    axis_of(options["axis"], reads[0])
    return reads[0]


def _argmax(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    axis = axis_of(options["axis"], reads[0])
    return (*reads[0][:axis], *reads[0][axis + 1 :])


def _take(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    values, index = reads
    axis = axis_of(options["axis"], values)
    if options["axis"] < 0:
        raise ValueError("the option 'axis' must be counted from the first one")
    padding = options.get("padding")
    if padding is not None and (axis, len(values)) != (0, 2):
        raise ValueError("the option 'padding' is that of a table, whose rows are taken: of two axes, along the first")
    if padding is not None and not 0 <= padding < values[0]:
        raise ValueError(f"the option 'padding' must be a row of the table, from 0 to {values[0] - 1}, not {padding}")
    return (*values[:axis], *index, *values[axis + 1 :])


def _gather(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    values, index = reads
    axis = axis_of(options["axis"], values)
    rest = [(*shape[:axis], *shape[axis + 1 :]) for shape in reads]
    if options["axis"] < 0 or len(values) != len(index) or rest[0] != rest[1] or index[axis] < 1:
        raise ValueError(f"indices of {text_of(index)} do not name places along axis {axis} of {text_of(values)}")
    return index


def _linear(reads: Sequence[Shape], options: Mapping[str, Any]) -> Shape:
    read, weight, *bias = reads
    if len(weight) != 2 or min(weight) < 0 or not read or read[-1] != weight[1]:
        raise ValueError(f"a weight of {text_of(weight)} does not fit what it reads, {text_of(read)}")
    if bias and bias[0] != weight[:1]:
        raise ValueError(f"a bias of {text_of(bias[0])} does not fit the {weight[0]} outputs")
    return (*read[:-1], weight[0])


_MODES = "constant, reflect, replicate, circular"
_RELATIONS = "equal, not_equal, less, less_equal, greater, greater_equal"
_AXES = {"axes": "integers", "keep": "boolean"}
_WINDOWS = {"kernel": "sizes", "stride": "sizes", "padding": "paddings", "ceil_mode": "boolean"}


def _function(**options: str) -> Operation:
    return Operation(_same, options)


def _one_or_two(**options: str) -> Operation:
    return Operation(_elementwise, options, (2, 2))


#: Functions of one number, with their constants in the order in which PyTorch's function takes them.
FUNCTIONS: Mapping[str, Operation] = {
    **{
        name: _function()
        for name in (
            "relu", "relu6", "selu", "silu", "mish", "hardswish", "sigmoid", "hardsigmoid", "log_sigmoid", "tanh",
            "exp", "erf", "sqrt", "rsqrt", "abs", "neg", "square", "reciprocal", "sin", "cos", "log", "log1p", "expm1",
        )
    },
    "gelu": _function(approximate="none, tanh"),
    "leaky_relu": _function(negative_slope="number"),
    "elu": _function(alpha="number"),
    "celu": _function(alpha="number"),
    "hardtanh": _function(min_val="number", max_val="number"),
    "softplus": _function(beta="number", threshold="number"),
    "hardshrink": _function(lambd="number"),
    "softshrink": _function(lambd="number"),
    "add_number": Operation(_same, {"number": "number"}, content=shifted),
    "multiply_number": Operation(_same, {"number": "number"}, content=scaled),
    "power": _function(exponent="number"),
    "at_least": _function(number="number"),
    "at_most": _function(number="number"),
    "dropout": _function(rate="rate"),
    "feature_dropout": _function(rate="rate"),
}  # fmt: skip

OPERATIONS: Mapping[str, Operation] = {
    **FUNCTIONS,
    "add": Operation(_elementwise, {}, (2, 2), content=summed),
    "sub": _one_or_two(),
    "mul": Operation(_elementwise, {}, (2, 2), content=multiplied),
    "div": _one_or_two(),
    "maximum": _one_or_two(),
    "minimum": _one_or_two(),
    "max_pool": Operation(_pool, {**_WINDOWS, "dilation": "sizes"}),
    "avg_pool": Operation(_pool, {**_WINDOWS, "count_padding": "boolean"}),
    "adaptive_avg_pool": Operation(_adaptive, {"output": "sizes"}),
    "adaptive_max_pool": Operation(_adaptive, {"output": "sizes"}),
    "mean": Operation(_reduced, _AXES),
    "sum": Operation(_reduced, _AXES),
    "amax": Operation(_reduced, _AXES),
    "softmax": Operation(_softmax, {"axis": "integer"}),
    "reshape": Operation(_reshape, {"shape": "integers"}, view=True, content=unchanged),
    "expand": Operation(_expand, {"shape": "integers"}, view=True, content=unchanged),
    "permute": Operation(_permute, {"order": "integers"}, view=True, content=unchanged),
    "slice": Operation(
        _slice,
        {"axis": "integer", "start": "integer", "end": "integer", "step": "integer"},
        view=True,
        content=unchanged,
    ),
    "cat": Operation(_cat, {"axis": "integer"}, (1, 256), content=unchanged),
    "take": Operation(
        _take, {"axis": "integer", "padding": "integer"}, (2, 2), content=taken, optional=frozenset({"padding"})
    ),
    "gather": Operation(_gather, {"axis": "integer"}, (2, 2), content=taken),
    "compare": Operation(_same, {"relation": _RELATIONS, "number": "number"}, content=compared),
    "cumsum": Operation(_cumsum, {"axis": "integer"}, content=accumulated),
    "argmax": Operation(_argmax, {"axis": "integer"}, content=places),
    "as_integer": Operation(_same, content=as_integers),
    "as_number": Operation(_same, content=as_numbers),
    "both": Operation(_elementwise, {}, (2, 2), content=expects("boolean", gives=BOOLEANS)),
    "not": Operation(_same, content=expects("boolean", gives=BOOLEANS)),
    "fill_where": Operation(_elementwise, {"number": "filling"}, (2, 2), content=expects("number", "boolean")),
    "where": Operation(_elementwise, {}, (3, 3), content=expects("boolean", "number")),
    "vector_norm": Operation(_reduced, _AXES),
    "pad": Operation(_pad, {"sizes": "integers", "mode": _MODES, "value": "number"}),
    "resize": Operation(
        _resize, {"size": "sizes", "mode": "nearest, linear, bilinear, bicubic, trilinear", "align_corners": "boolean"}
    ),
    "roll": Operation(_roll, {"shifts": "integers", "axes": "integers"}, content=unchanged),
    "matmul": Operation(_matmul, {}, (2, 2), lambda reads, out: numbers(out) * reads[0][-1]),
    "attention": _attends(_attention),
    "shared_attention": _attends(_shared_attention),
    "linear": Operation(_linear, {}, (2, 3), lambda reads, out: numbers(out) * reads[1][1]),
}
#: Nodes that apply a layer, are a parameter or a constant of their own, or another input of the network.
LAYER, PARAMETER, CONSTANT, INPUT = "layer", "parameter", "constant", "input"
