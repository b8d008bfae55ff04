"""Operators of maps and of whole axes, such as pools, means and attention, as operations of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from collegium.search.describe.graphs.builder import Builder, Converter, Given, node_of, number_of
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.layers import sizes_of


def _reduced(name: str) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> Any:
        source, axes = node_of(given["self"]), given.get("dim")
        if axes is None or axes == []:
            raise Missing("it is taken over the batch as well")
        before = builder.shape(source)
        places = tuple(axis % len(before) for axis in (axes if isinstance(axes, list | tuple) else [axes]))
        if any(before[axis] < 0 for axis in places):
            raise Missing("it is taken over the batch as well")
        both = node.meta["val"], builder.other[node].meta["val"]
        several = isinstance(both[0], tuple | list)
        shape = builder.scaled(both[0][0], both[1][0]) if several else builder.shape(node)
        keep = bool(given["keepdim"])
        found = builder.emit(name, [builder.value(source)], shape, axes=places, keep=keep)
        return [found, None] if several else found

    return convert


def _softmax(builder: Builder, node: fx.Node, given: Given) -> int:
    shape = builder.shape(node)
    axis = given["dim"] % len(shape)
    if shape[axis] < 0:
        raise Missing("it is taken over the batch as well")
    found, rate = builder.emit("softmax", [builder.value(given["self"])], shape, axis=axis), _left_out(builder, node)
    return builder.emit("dropout", [found], shape, rate=rate) if rate else found


def _left_out(builder: Builder, node: fx.Node) -> float:
    """The dropout of PyTorch's attention, which its code leaves out in evaluation mode; 0 anywhere else."""
    module = builder.module_of(node)
    if not isinstance(module, nn.MultiheadAttention) or type(module).forward is not nn.MultiheadAttention.forward:
        return 0.0
    return 0.0 if module.training else float(module.dropout)


def _windows(name: str, dimensions: int) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> Any:
        kernel = sizes_of(given["kernel_size"], dimensions)
        options: dict[str, Any] = {
            "kernel": kernel,
            "stride": sizes_of(given["stride"], dimensions) if given["stride"] else kernel,
            "padding": sizes_of(given["padding"], dimensions),
            "ceil_mode": bool(given["ceil_mode"]),
        }
        if name == "max_pool":
            options["dilation"] = sizes_of(given["dilation"], dimensions)
        else:
            options["count_padding"] = bool(given["count_include_pad"])
            if given.get("divisor_override") is not None:
                raise Missing("a mean with a divisor of its own")
        return _first(builder, node, name, given["self"], options)

    return convert


def _adaptive(name: str, dimensions: int) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> Any:
        both = node.meta["val"], builder.other[node].meta["val"]
        one, two = (each[0] if isinstance(each, tuple | list) else each for each in both)
        output = builder.scaled(one, two)[-dimensions:]
        return _first(builder, node, name, given["self"], {"output": output})

    return convert


def _first(builder: Builder, node: fx.Node, name: str, read: Any, options: Mapping[str, Any]) -> Any:
    """The result, or of several the first."""
    both = node.meta["val"], builder.other[node].meta["val"]
    if isinstance(both[0], Tensor):
        return builder.emit(name, [builder.value(read)], builder.shape(node), **options)
    return [builder.emit(name, [builder.value(read)], builder.scaled(both[0][0], both[1][0]), **options), None]


def _pad(builder: Builder, node: fx.Node, given: Given) -> int:
    sizes = tuple(int(size) for size in given["pad"])
    value = given.get("value")
    options = {"sizes": sizes, "mode": given.get("mode", "constant"), "value": number_of(value or 0.0)}
    return builder.emit("pad", [builder.value(given["self"])], builder.shape(node), **options)


def _resize(mode: str) -> Converter:
    def convert(builder: Builder, node: fx.Node, given: Given) -> int:
        source = node_of(given["input"] if "input" in given else given["self"])
        before, shape = builder.shape(source), builder.shape(node)
        factors = given.get("scale_factors")
        if factors and any(after != size * f for after, size, f in zip(shape[2:], before[2:], factors, strict=True)):
            raise Missing("it resizes by a factor that gives no whole size")
        options = {"size": shape[2:], "mode": mode, "align_corners": bool(given.get("align_corners", False))}
        return builder.emit("resize", [builder.value(source)], shape, **options)

    return convert


def _attention(builder: Builder, node: fx.Node, given: Given) -> int:
    names = ("query", "key", "value", *(["attn_mask"] if given["attn_mask"] is not None else []))
    reads = [builder.value(given[name]) for name in names]
    scale = given["scale"] if given["scale"] is not None else abs(builder.shape(node_of(given["query"]))[-1]) ** -0.5
    dropout = number_of(given["dropout_p"]) or _left_out(builder, node)
    options = {"scale": number_of(scale), "causal": bool(given["is_causal"]), "dropout": dropout}
    heads = [builder.shape(node_of(given[name]))[-3:-2] for name in ("query", "key", "value")]
    name = "shared_attention" if given.get("enable_gqa") and len(set(heads)) > 1 else "attention"
    return builder.emit(name, reads, builder.shape(node), **options)


#: Operators of maps and of whole axes.
OF_MAPS: dict[str, Converter] = {
    "mean": _reduced("mean"),
    "sum": _reduced("sum"),
    "amax": _reduced("amax"),
    "max": _reduced("amax"),
    "softmax": _softmax,
    "scaled_dot_product_attention": _attention,
    "pad": _pad,
    "constant_pad_nd": _pad,
    **{f"max_pool{count}d": _windows("max_pool", count) for count in (1, 2, 3)},
    **{f"max_pool{count}d_with_indices": _windows("max_pool", count) for count in (1, 2, 3)},
    **{f"avg_pool{count}d": _windows("avg_pool", count) for count in (1, 2, 3)},
    **{f"adaptive_avg_pool{count}d": _adaptive("adaptive_avg_pool", count) for count in (1, 2, 3)},
    **{f"adaptive_max_pool{count}d": _adaptive("adaptive_max_pool", count) for count in (1, 2, 3)},
    **{f"upsample_nearest{count}d": _resize("nearest") for count in (1, 2, 3)},
    "upsample_linear1d": _resize("linear"),
    "upsample_bilinear2d": _resize("bilinear"),
    "upsample_bicubic2d": _resize("bicubic"),
    "upsample_trilinear3d": _resize("trilinear"),
}
