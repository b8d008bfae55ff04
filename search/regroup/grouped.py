"""Layers of m members side by side in one tensor, and the network of known layers that a graph describes.

A graph is plain data, checked by ``collegium.search.networks.graph`` before anything is built. What it names is looked
up in the tables below: nothing is imported, called or read by a name that the data gives.

This file needs torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class GroupedLinear(nn.Module):
    """A block-diagonal linear layer: each of ``groups`` members maps its own inputs to its own outputs.

    Maps ``(…, groups · n_in)`` to ``(…, groups · n_out)`` as one batched product. ``weight`` has the shape
    ``(groups, n_out, n_in)``, ``bias`` ``(groups · n_out)``. ``in_features`` and ``out_features`` are those of all
    members together, as of a linear layer in its place.

    >>> layer = GroupedLinear(6, 4, groups=2)
    >>> layer(torch.randn(5, 6)).shape, sum(parameter.numel() for parameter in layer.parameters())
    (torch.Size([5, 4]), 16)
    """

    majority_kernels: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        groups: int,
        *,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features % groups or out_features % groups:
            raise ValueError(f"groups = {groups} must divide in_features {in_features} and out_features {out_features}")
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        shape = groups, out_features // groups, in_features // groups
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform between ±1/√n_in, as ``nn.Linear`` starts."""
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Every member's product with its own block."""
        members, outputs, inputs = self.weight.shape
        y = torch.einsum("...gi,goi->...go", x.unflatten(-1, (members, inputs)), self.weight)
        y = y.reshape(*x.shape[:-1], members * outputs)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, as they are printed."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, groups={self.groups}, "
            f"bias={self.bias is not None}"
        )


class GroupedLayerNorm(nn.Module):
    """A layer norm over the features of each of ``groups`` members alone; the last dimension holds all of them.

    ``weight`` and ``bias`` have one number for each feature of all members, and are None where ``affine`` is false.
    ``centered`` false is a norm by the root of the mean square.

    >>> x = torch.randn(4, 6)
    >>> torch.equal(GroupedLayerNorm(6, groups=2)(x)[:, :3], GroupedLayerNorm(3, groups=1)(x[:, :3]))
    True
    """

    def __init__(
        self,
        features: int,
        groups: int,
        *,
        eps: float = 1e-5,
        scale: bool = True,
        shift: bool = True,
        centered: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if features % groups:
            raise ValueError(f"groups = {groups} must divide features = {features}")
        self.normalized_shape, self.groups, self.eps, self.centered = (features,), groups, eps, centered
        self.weight = nn.Parameter(torch.ones(features, device=device, dtype=dtype)) if scale else None
        self.bias = nn.Parameter(torch.zeros(features, device=device, dtype=dtype)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        """Every member normalized by its own mean and variance."""
        own = x.unflatten(-1, (self.groups, -1))
        norm = functional.layer_norm if self.centered else functional.rms_norm
        y = norm(own, own.shape[-1:], eps=self.eps).flatten(-2)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, as they are printed."""
        return f"{self.normalized_shape}, groups={self.groups}, eps={self.eps}"


def _dropped(x: Tensor, training: bool, rate: float) -> Tensor:
    return functional.dropout(x, rate, training)


def _maps_dropped(x: Tensor, training: bool, rate: float) -> Tensor:
    """Whole maps are left out."""
    return x * functional.dropout(x.new_ones(x.shape[:2] + (1,) * (x.dim() - 2)), rate, training)


def _attended(*read: Tensor, training: bool, dropout: float, causal: bool, **options: Any) -> Tensor:
    q, k, v, mask = read if len(read) > 3 else (*read, None)
    return functional.scaled_dot_product_attention(q, k, v, mask, dropout if training else 0.0, causal, **options)


def _taken(values: Tensor, index: Tensor, axis: int, padding: int | None = None) -> Tensor:
    if axis == 0 and values.dim() == 2:
        return functional.embedding(index, values, padding)  # the row of padding has no gradient
    return values[(slice(None),) * axis + (index,)]


def _resized(x: Tensor, size: Sequence[int], mode: str, align_corners: bool) -> Tensor:
    return functional.interpolate(
        x, size=list(size), mode=mode, align_corners=None if mode == "nearest" else align_corners
    )


def _padded(x: Tensor, sizes: Sequence[int], mode: str, value: float) -> Tensor:
    return functional.pad(x, list(sizes), mode, value if mode == "constant" else None)


_POOLS: Mapping[tuple[str, int], Callable[..., Tensor]] = {
    ("max", 1): functional.max_pool1d,
    ("max", 2): functional.max_pool2d,
    ("max", 3): functional.max_pool3d,
    ("average", 1): functional.avg_pool1d,
    ("average", 2): functional.avg_pool2d,
    ("average", 3): functional.avg_pool3d,
}
_RELATIONS: Mapping[str, Callable[..., Tensor]] = {
    "equal": torch.eq, "not_equal": torch.ne, "less": torch.lt, "less_equal": torch.le, "greater": torch.gt,
    "greater_equal": torch.ge,
}  # fmt: skip
_ADAPTIVE_AVERAGES = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)
_ADAPTIVE_MAXIMA = (functional.adaptive_max_pool1d, functional.adaptive_max_pool2d, functional.adaptive_max_pool3d)
#: What each operation of a graph computes, from what it reads and its options.
OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    **{
        name: getattr(functional, name)
        for name in (
            "relu", "relu6", "selu", "silu", "mish", "hardswish", "hardsigmoid", "gelu", "leaky_relu", "elu", "celu",
            "hardtanh", "softplus", "hardshrink", "softshrink",
        )
    },
    **{
        name: getattr(torch, name)
        for name in (
            "sigmoid", "tanh", "exp", "erf", "sqrt", "rsqrt", "abs", "neg", "square", "reciprocal", "sin", "cos",
            "log", "log1p", "expm1", "add", "sub", "mul", "div", "maximum", "minimum", "matmul", "where",
        )
    },
    "log_sigmoid": functional.logsigmoid,
    "add_number": lambda x, number: x + number,
    "multiply_number": lambda x, number: x * number,
    "power": lambda x, exponent: x**exponent,
    "at_least": lambda x, number: torch.clamp(x, min=number),
    "at_most": lambda x, number: torch.clamp(x, max=number),
    "max_pool": lambda x, kernel, **options: _POOLS["max", len(kernel)](x, kernel, **options),
    "avg_pool": lambda x, kernel, count_padding, **options: _POOLS["average", len(kernel)](
        x, kernel, count_include_pad=count_padding, **options
    ),
    "adaptive_avg_pool": lambda x, output: _ADAPTIVE_AVERAGES[len(output) - 1](x, output),
    "adaptive_max_pool": lambda x, output: _ADAPTIVE_MAXIMA[len(output) - 1](x, output),
    "mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "amax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "softmax": lambda x, axis: x.softmax(axis),
    "permute": lambda x, order: x.permute(order),
    "slice": lambda x, axis, start, end, step: x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)],
    "cat": lambda *x, axis: torch.cat(x, axis),
    "pad": _padded,
    "resize": _resized,
    "roll": lambda x, shifts, axes: torch.roll(x, shifts, axes),
    "linear": functional.linear,
    "take": _taken,
    "compare": lambda x, relation, number: _RELATIONS[relation](x, number),
    "cumsum": lambda x, axis: x.cumsum(axis),
    "gather": lambda x, index, axis: x.gather(axis, index),
    "argmax": lambda x, axis: x.argmax(axis),
    "as_integer": lambda x: x.long(),
    "as_number": lambda x: x.to(torch.get_default_dtype()),
    "both": torch.logical_and,
    "not": torch.logical_not,
    "fill_where": lambda x, mask, number: torch.where(mask, float(number), x),
    "vector_norm": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep),
}  # fmt: skip
#: Operations that are others in training, and those whose shape has the batch in it.
IN_TRAINING: Mapping[str, Callable[..., Tensor]] = {
    "dropout": _dropped,
    "feature_dropout": _maps_dropped,
    "attention": _attended,
    "shared_attention": lambda *read, **options: _attended(*read, enable_gqa=True, **options),
}
OF_BATCH: Mapping[str, Callable[[Tensor, Sequence[int]], Tensor]] = {
    "reshape": lambda x, shape: x.reshape(shape),
    "expand": lambda x, shape: x.expand(shape),
}


class _Place(nn.Module):
    """A module of the network that was described, with what is in it and no code of its own."""

    majority_kernels: ClassVar[tuple[str, ...]] = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class GraphNetwork(nn.Module):
    """A network of known layers, as a graph of ``collegium.describe`` has them; freshly initialized by its laws.

    ``sample`` is the shape of one sample; samples of as many numbers in another shape are taken too. ``graph`` has
    ``layers``, ``nodes`` and ``tied`` (docs/describe.md). Modules and parameters have the names that they have in the
    network that was described, so that its weights can be loaded. ``draws`` is true where it draws in training.

    >>> fill = {"kind": "uniform", "value": 0.1}
    >>> layers = [{"kind": "linear", "path": "head", "inputs": 4, "outputs": 2, "weight": fill}]
    >>> nodes = [{"op": "relu", "reads": [0]}, {"op": "layer", "layer": "head", "reads": [1]}]
    >>> network = GraphNetwork([4], {"layers": layers, "nodes": nodes})
    >>> network(torch.randn(3, 2, 2)).shape, list(network.state_dict())
    (torch.Size([3, 2]), ['head.weight'])
    """

    def __init__(self, sample: Sequence[int], graph: Mapping[str, Any]) -> None:
        super().__init__()
        self._sample = tuple(sample)
        self._nodes = [_planned(node) for node in graph["nodes"]]
        self._done = _last_reads([reads for _, reads, _, _ in self._nodes])
        dropped = any("dropout" in op or options.get("dropout") for op, _, _, options in self._nodes)
        self.draws = dropped or any(layer.get("dropout") for layer in graph["layers"])
        for layer in graph["layers"]:
            self._add(layer)
        for first, second in graph.get("tied", ()):
            owner, name = self._owner(second.split("."))
            of, its = self._owner(first.split("."))
            owner._parameters[name] = of._parameters[its]
        for layer in graph["layers"]:
            for row in layer.get("zero_rows", ()):
                owner, name = self._owner(layer["path"].split("."))
                with torch.no_grad():
                    owner._parameters[name][row].zero_()  # type: ignore[index]

    def _add(self, layer: Mapping[str, Any]) -> None:
        *above, name = layer["path"].split(".")
        owner: nn.Module = self
        for part in above:
            # names are entries of a table here, so that none of them can be an attribute of the class
            owner = owner._modules.setdefault(part, _Place())  # type: ignore[assignment]
        if layer["kind"] == "parameter":
            owner._parameters[name] = nn.Parameter(_filled(torch.empty(layer["shape"]), layer["weight"]))
        elif layer["kind"] == "constant":
            owner._buffers[name] = _constant(layer)
            if not layer.get("saved"):
                owner._non_persistent_buffers_set.add(name)
        else:
            owner._modules[name] = _made(layer)

    def _owner(self, path: Sequence[str]) -> tuple[nn.Module, str]:
        """The module that has the module or parameter of this path, and the last name."""
        owner: Any = self
        for part in path[:-1]:
            owner = owner._modules[part]
        return owner, path[-1]

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Outputs of a batch of samples; ``others`` are further inputs, in the order of the graph's."""
        batch = x.shape[0]
        if x.shape[1:] != self._sample:
            x = x.reshape(batch, *self._sample)
        values: list[Any] = [x]
        for (op, reads, path, options), done in zip(self._nodes, self._done, strict=True):
            given = [values[each] for each in reads]
            if op == "input":
                values.append(others[options["place"] - 1])
            else:
                values.append(self._value(op, given, path, options, batch))
            for each in done:
                values[each] = None
        return values[-1]

    def _value(self, op: str, given: list[Tensor], path: Sequence[str], options: Mapping[str, Any], batch: Any) -> Any:
        if op == "layer":
            owner, name = self._owner(path)
            layer: Any = owner._modules[name]
            return _joined(given, layer) if isinstance(layer, nn.RNNBase) else layer(*given)
        if op == "constant":
            owner, name = self._owner(path)
            return owner._buffers[name]
        if op == "parameter":
            owner, name = self._owner(path)
            plain = owner._parameters.get(name)
            return getattr(owner, name) if plain is None else plain
        if op in OF_BATCH:
            return OF_BATCH[op](given[0], [size if size > 0 else -size * batch for size in options["shape"]])
        if op in IN_TRAINING:
            return IN_TRAINING[op](*given, training=self.training, **options)
        return OPERATIONS[op](*given, **options)


def _planned(node: Mapping[str, Any]) -> tuple[str, list[int], list[str], dict[str, Any]]:
    layer = node.get("layer")
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in _options(node).items()}
    return node["op"], list(node.get("reads", ())), layer.split(".") if layer else [], options


def _options(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return node.get("options") or {}


def _last_reads(reads: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each node the values that nothing reads after it."""
    last: dict[int, int] = {}
    for index, each in enumerate(reads):
        last |= dict.fromkeys(each, index)
    found: list[list[int]] = [[] for _ in reads]
    for value, index in last.items():
        found[index].append(value)
    return found


def _constant(layer: Mapping[str, Any]) -> Tensor:
    """The tensor that a constant is, made in the largest floating-point numbers, which hold all of its integers."""
    shape, wide = tuple(layer["shape"]), torch.float64
    low, high = torch.tensor([float(each) for each in layer.get("levels") or (0, 0)], dtype=wide)
    if layer.get("values") is not None:
        found = torch.tensor([float(each) for each in layer["values"]], dtype=wide).reshape(shape)
    elif layer.get("classes") is not None:
        classes = torch.tensor(layer["classes"]).reshape(shape[:-1])
        found = torch.where(classes[..., :, None] == classes[..., None, :], low, high)
    else:
        found = torch.full(shape, float(layer["start"]), dtype=wide)
        for axis, step in enumerate(layer["steps"]):
            places = torch.arange(shape[axis], dtype=wide)
            found = found + float(step) * places.reshape(-1, *[1] * (len(shape) - axis - 1))
        found = torch.where(found >= 0, high, low) if layer.get("levels") else found
    kinds = {"integer": torch.long, "boolean": torch.bool, "number": torch.get_default_dtype()}
    return found.to(kinds[layer["content"]])


def _filled(parameter: Tensor, law: Mapping[str, Any]) -> Tensor:
    """The parameter as its law starts it."""
    kind, value = law["kind"], float(law["value"])
    if parameter.is_meta:
        return parameter
    with torch.no_grad():
        if kind == "normal":
            return parameter.normal_(0.0, value)
        if kind == "uniform":
            return parameter.uniform_(-math.sqrt(3) * value, math.sqrt(3) * value)
        return parameter.fill_(value)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def _made(layer: Mapping[str, Any]) -> nn.Module:
    made = {"conv": _convolution, "linear": _linear, "norm": _norm, "recurrent": _recurrent}[layer["kind"]](layer)
    for name, law in layer.get("laws", {}).items():
        _filled(made._parameters[name], law)  # type: ignore[arg-type]
    for name in () if "laws" in layer else ("weight", "bias"):
        law, parameter = layer.get(name), made._parameters.get(name)
        if law is None:
            made._parameters[name] = None
        elif parameter is not None:
            _filled(parameter, law)
    return made


def _convolution(layer: Mapping[str, Any]) -> nn.Module:
    sizes = {name: tuple(layer[name]) for name in ("stride", "padding", "dilation")}
    given = (layer["inputs"], layer["outputs"], tuple(layer["kernel"]))
    options: dict[str, Any] = {**sizes, "groups": layer.get("groups", 1), "bias": layer.get("bias") is not None}
    place = len(layer["kernel"]) - 1
    if layer.get("transposed"):
        return _TRANSPOSED[place](*given, **options, output_padding=tuple(layer["output_padding"]))
    return _CONVOLUTIONS[place](*given, **options)


def _linear(layer: Mapping[str, Any]) -> nn.Module:
    bias, groups = layer.get("bias") is not None, layer.get("groups", 1)
    if groups > 1:
        return GroupedLinear(layer["inputs"], layer["outputs"], groups, bias=bias)
    return nn.Linear(layer["inputs"], layer["outputs"], bias=bias)


def _norm(layer: Mapping[str, Any]) -> nn.Module:
    channels, groups, eps = layer["channels"], layer.get("groups", 1), layer["epsilon"]
    scale, shift = layer.get("weight") is not None, layer.get("bias") is not None
    kind, place = layer["norm"], layer.get("dimensions", 1) - 1
    if kind == "batch":
        tracked = layer.get("tracked", True)
        return _BATCH_NORMS[place](channels, eps, layer.get("momentum"), scale or shift, tracked)
    if kind == "instance":
        return _INSTANCE_NORMS[place](channels, eps, affine=scale or shift)
    if kind == "group":
        return nn.GroupNorm(groups, channels, eps, scale or shift)
    if groups > 1:
        return GroupedLayerNorm(channels, groups, eps=eps, scale=scale, shift=shift, centered=kind == "layer")
    return nn.LayerNorm(channels, eps, scale or shift) if kind == "layer" else nn.RMSNorm(channels, eps, scale)


_CELLS: Mapping[str, Callable[..., Any]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}


def _recurrent(layer: Mapping[str, Any]) -> nn.Module:
    options = {name: layer[name] for name in ("bias", "batch_first", "bidirectional", "dropout") if name in layer}
    if layer["cell"] == "rnn_relu":
        options["nonlinearity"] = "relu"
    made = _CELLS[layer["cell"]](layer["inputs"], layer["hidden"], layer.get("count", 1), **options)
    made.states = layer.get("states", False)
    return made


def _joined(given: Sequence[Tensor], layer: Any) -> Tensor:
    """A recurrent layer's outputs; with ``states`` one row for each sample, of its outputs and its last states."""
    read, *start = (each.contiguous() for each in given)
    outputs, last = layer(read, tuple(start) if len(start) > 1 else start[0] if start else None)
    if not layer.states:
        return outputs
    states = last if isinstance(last, tuple) else (last,)
    parts = [outputs if layer.batch_first else outputs.transpose(0, 1), *(each.transpose(0, 1) for each in states)]
    return torch.cat([each.flatten(1) for each in parts], 1)
