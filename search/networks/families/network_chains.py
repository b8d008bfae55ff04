"""A branch of a described network as a chain whose kernel is studied, or the reason why it is not.

Where a layer inside of a branch is not studied, the pieces before and behind it are branches of their own: the width
between them is then fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from collegium.search.kernel.receptive_field import LayerWindows, layer_windows
from collegium.search.networks.activation import PARAMETERS, Activation, ActivationName
from collegium.search.networks.chain import Chain, Free, Sizes, WeightLayer
from collegium.search.networks.families.network import FEWEST_FREE, Branch
from collegium.search.networks.families.network_layers import (
    ActivationLayer,
    Conv,
    Layer,
    Layers,
    Linear,
    Norm,
    Pad,
    Pool,
    Reshape,
    WeightedLayer,
    maps,
    placed,
    weight_layers,
    with_modules,
)
from collegium.search.networks.network import member_groups
from collegium.search.networks.pooling import PoolAxis, Pooling

#: Activations of a description that the samplers know, by their names there.
ACTIVATIONS: dict[str, ActivationName] = {
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "relu6": "relu6",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "silu": "silu",
    "mish": "mish",
    "hardswish": "hardswish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "elu": "elu",
    "selu": "selu",
    "celu": "celu",
    "softplus": "softplus",
}
#: Constants of theirs that mean the same as none.
USUAL: dict[str, tuple[float, ...]] = {
    "softplus": (1.0, 20.0),
    "leaky_relu": (0.01,),
    "elu": (1.0,),
    "celu": (1.0,),
}
#: Constants between which an activation is searched; at α = 0 an ELU is a rectifier, and a CELU nothing.
RANGES: dict[str, tuple[float, float]] = {"leaky_relu": (-1.0, 1.0), "elu": (0.0, 10.0), "celu": (1e-3, 10.0)}
#: Norms behind which a bias has no derivative: they take each channel's mean away.
CENTRED = ("batch", "instance")
#: Most axes of a map whose positions are mixed.
MOST_AXES = 3
#: Most positions of a unit's receptive field: its Gram matrix has their square.
MOST_POSITIONS = 1024
#: Most positions of a map inside that it depends on: padding may make more of them.
MOST_INSIDE = 4096


def searched(branch: Branch) -> tuple[Branch, ...]:
    """The branch, or the pieces of it that can be searched; none where it cannot be split, or no piece can."""
    return _once(branch)


def _searched(branch: Branch) -> tuple[Branch, ...]:
    if not branch.splittable:
        return ()
    if reason(branch) is None:
        return (branch,)
    return tuple(piece for piece in _pieces(branch) if reason(piece) is None)


#: Frozen models have hashes, which pyright does not know.
_once: Any = lru_cache(maxsize=2048)(_searched)


def _pieces(branch: Branch) -> Iterator[Branch]:
    """What stands between the layers that are not studied, from a weight layer to a weight layer.

    A piece has two free widths at least, no grouped layer at its ends, and a unit that reads no more than is searched.
    What reads more is cut so that as many widths as can be are free, and of such cuts into the most equal pieces.
    """
    extents = _extents(branch)
    start, number = 0, 0
    for end in [*(i for i in range(len(branch.layers)) if _unknown(branch, i)), len(branch.layers)]:
        whole = [i for i in range(start, end) if _whole(branch.layers[i])]
        start = end + 1
        if len(whole) < 2:
            continue
        run = branch_chain(_piece(branch, whole[0], whole[-1], extents[whole[0]], 0))
        before = len(weight_layers(branch.layers[: whole[0]]))
        at = {len(weight_layers(branch.layers[:i])) - before: i for i in whole}
        for first, last in _cut(run, list(at)):
            number += 1
            yield _piece(branch, at[first], at[last], extents[at[first]], number)


def _cut(run: Chain, ends: Sequence[int]) -> list[tuple[int, int]]:
    """First and last layers of the pieces of a chain, each of which begins and ends with one of the layers ``ends``."""
    widths = [0]
    for layer in run.layers:
        widths.append(widths[-1] + (not layer.depthwise))
    # Up to each of the layers: most free widths, least sum of squares of the pieces' free widths, and the pieces.
    best: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(0, 0, ())]
    for index, last in enumerate(ends):
        found = best[-1]
        earliest = _earliest(run, last)
        for before, first in enumerate(ends[:index]):
            own = widths[last] - widths[first]  # free widths: outputs of all layers but the last
            if first >= earliest and own >= FEWEST_FREE:
                free, squares, pieces = best[before]
                tried = free + own, squares - own * own, (*pieces, (first, last))
                found = max(found, tried, key=lambda each: each[:2])
        best.append(found)
    return list(best[-1][2])


def _earliest(run: Chain, last: int) -> int:
    """The earliest layer of a chain from which on a unit of the layer ``last`` reads no more than is searched."""
    try:
        layers = layer_windows(
            replace(run, layers=(*run.layers[:last], replace(run.layers[last], pools=())), bias=False), "unit"
        )
    except ValueError:
        return last
    for index in reversed(range(last + 1)):
        if layers[index].read.positions > MOST_POSITIONS or _inside(layers[index]) > MOST_INSIDE:
            return index + 1
    return 0


def _inside(layer: LayerWindows) -> int:
    return max(window.positions for window in (layer.computed, *layer.pooled))


def _whole(layer: Any) -> bool:
    """Whether a layer may stand at an end: a weight layer without groups."""
    return isinstance(layer, Linear) or (isinstance(layer, Conv) and layer.groups == 1)


def _piece(branch: Branch, first: int, last: int, extents: tuple[int, ...], number: int) -> Branch:
    layers = branch.layers[first : last + 1]
    before = len(weight_layers(branch.layers[:first]))
    widths = branch.widths[before : before + len(weight_layers(layers)) + 1]
    modules = len(with_modules(branch.layers[:first])), len(with_modules(branch.layers[: last + 1]))
    paths = tuple(occurrence[slice(*modules)] for occurrence in branch.paths)
    parts = list(placed(layers, widths, extents))
    return branch.model_copy(
        update={
            "name": f"{paths[0][0]} … {paths[0][-1]}" if paths else f"{branch.name}, piece {number}",
            "input": extents,
            "layers": layers,
            "widths": widths,
            "paths": paths,
            "parameters": sum(part.parameters for part in parts),
            "flops": sum(part.flops for part in parts),
            "group": None if branch.group is None else f"{branch.group}, piece {number}",
        }
    )


def member_widths(branch: Branch) -> tuple[int, ...]:
    """The free widths of one of the members that a branch has; those that depthwise layers tie are one."""
    members = branch.multiplicity
    return tuple(branch.widths[first] // members for first, *_ in branch.free)


def width_grains(branch: Branch) -> tuple[int, ...]:
    """What each free width of a member must be a multiple of: the groups of layers and norms inside of it divide it."""
    # which functions are between the layers does not matter, known ones or not
    bare = tuple(layer for layer in branch.layers if not isinstance(layer, ActivationLayer))
    grains = list(branch_chain(branch.model_copy(update={"layers": bare})).width_grains)
    free, members = branch.free, branch.multiplicity
    of = {position: index for index, tied in enumerate(free) for position in tied}
    at = 0
    for layer in branch.layers:
        at += isinstance(layer, Conv | Linear)
        if isinstance(layer, Norm) and at in of:
            times = branch.widths[at] // branch.widths[free[of[at]][0]]
            groups = member_groups(layer.groups, members)
            grains[of[at]] = math.lcm(grains[of[at]], groups // math.gcd(groups, times))
    return tuple(grains)


def layer_widths(branch: Branch, widths: Sequence[int]) -> tuple[int, ...]:
    """The inner widths, one for each weight layer but the last, of a member with these free ``widths``."""
    found: dict[int, int] = {}
    for width, tied in zip(widths, branch.free, strict=True):
        for index in tied:
            found[index] = width * (branch.widths[index] // branch.widths[tied[0]])
    return tuple(found[index] for index in sorted(found))


def reason(branch: Branch) -> str | None:
    """Why a part of a network is not searched; None where it is."""
    if not branch.splittable:
        return branch.why
    for index in range(len(branch.layers)):
        why = _unknown(branch, index)
        if why is not None:
            return why
    if _composed(branch):
        return "two activations in a row, which are a third one, are not searched yet"
    return _unseen(branch)


def _composed(branch: Branch) -> bool:
    """Whether a weight layer is followed by two activations that are not one and the same rectifier."""
    found: list[ActivationLayer] = []
    for layer in branch.layers:
        if isinstance(layer, Conv | Linear):
            found = []
        elif isinstance(layer, ActivationLayer):
            found.append(layer)
            if any(each != found[0] or each.function not in ("relu", "relu6") for each in found[1:]):
                return True
    return False


def _unseen(branch: Branch) -> str | None:
    """Why the receptive field of the branch's unit cannot be studied."""
    try:
        layers = layer_windows(branch_chain(branch), "unit")
    except ValueError as error:
        return f"its kernel cannot be evaluated: {error}"
    read = layers[0].read.positions
    if read > MOST_POSITIONS:
        return f"a unit reads {read} positions, and {MOST_POSITIONS} are the most that are searched"
    inside = max(map(_inside, layers))
    if inside > MOST_INSIDE:
        return f"a unit depends on {inside} positions of a map inside, and {MOST_INSIDE} are the most that are searched"
    return None


def _unknown(branch: Branch, index: int) -> str | None:
    """Why a layer is not studied; None where it is."""
    layers = branch.layers
    match layer := layers[index]:
        case ActivationLayer():
            if layer.function == "other":
                return "an elementwise function that is none of the known activations is not searched"
            if layer.function not in ACTIVATIONS:
                return f"the activation {layer.function!r} is not searched yet"
            if layer.function == "softplus" and layer.parameters not in ((), USUAL["softplus"]):
                return "a softplus of another sharpness is not searched yet"
            low, high = RANGES.get(layer.function, (-math.inf, math.inf))
            if not all(low <= constant <= high for constant in layer.parameters):
                return f"the activation {layer.function!r} is searched with a constant from {low:g} to {high:g}"
        case Pad():
            after = layers[index + 1] if index + 1 < len(layers) else None
            if layer.mode != "constant" or not isinstance(after, Conv):
                return "padding by anything but zeros in front of a convolution is not searched yet"
        case Pool(output=tuple(output)):
            axes = len(_extents(branch)[index])
            if axes > MOST_AXES or (math.prod(output) > 1 and len(output) != axes):
                return "a maximum or mean over some of the axes of a map is not searched yet"
        case Reshape():
            if math.prod(layer.extents) > 1 and _mixes(layers[:index]) and _mixes(layers[index + 1 :]):
                return "a map that is rearranged between layers which mix its positions is not searched yet"
        case _:
            return None
    return None


def _extents(branch: Branch) -> list[tuple[int, ...]]:
    """Extents before each layer, and after the last one."""
    return [branch.input, *maps(branch.layers, branch.input)]


def _mixes(layers: Layers) -> bool:
    return any(_is_spatial(layer) for layer in layers)


def _is_spatial(layer: Layer) -> bool:
    """Whether a layer reads several positions, leaves some out or adds some."""
    if isinstance(layer, Conv):
        return math.prod(layer.kernel) > 1 or math.prod(layer.stride) > 1 or any(layer.padding)
    return isinstance(layer, Pool | Pad)


def _biases(branch: Branch) -> tuple[bool, ...]:
    """Of each weight layer, whether it has a bias that a norm behind it does not take away.

    One of the last layer alone is as none: it adds the same number to every K.
    """
    found = []
    for index, layer in enumerate(branch.layers):
        if isinstance(layer, Conv | Linear):
            after = branch.layers[index + 1] if index + 1 < len(branch.layers) else None
            found.append(layer.bias and not (isinstance(after, Norm) and after.norm in CENTRED))
    return tuple(found) if any(found[:-1]) else (False,) * len(found)


def branch_chain(branch: Branch) -> Chain:
    """The chain of one member: convolutions and dense layers, activations and pools behind them, norms left out."""
    layers: list[WeightLayer] = []
    outs = {
        position: Free(index, branch.widths[position] // branch.widths[tied[0]])
        for index, tied in enumerate(branch.free)
        for position in tied
    }
    map_before = _map(branch)
    before: Pad | None = None
    for layer in branch.layers:
        if isinstance(layer, Conv | Linear):
            out = outs.get(len(layers) + 1, branch.widths[-1])
            groups = layer.groups // branch.multiplicity if isinstance(layer, Conv) else 1
            made = _weight_layer(layer, out, before)
            layers.append(made if made.depthwise or groups < 2 else replace(made, groups=groups))
        elif isinstance(layer, ActivationLayer | Pool):
            layers[-1] = _followed(layers[-1], layer, len(map_before))
        before = layer if isinstance(layer, Pad) else None
    names = tuple(f"n{index + 1}" for index in range(len(branch.free)))
    *depth, height, width = map_before
    return Chain(branch.widths[0], height, width, tuple(layers), names, _biases(branch), *depth)


def _map(branch: Branch) -> tuple[int, ...]:
    """Extents of the map that the chain reads: those before the first layer that does not keep positions apart.

    A sequence is a map of one column; where every position stays alone, one of them is studied.
    """
    for layer, extents in zip(branch.layers, _extents(branch), strict=False):
        if _is_spatial(layer):
            return extents if len(extents) > 1 else (*extents, 1, 1)[:2]
    return 1, 1


def _weight_layer(layer: WeightedLayer, out: int | Free, before: Pad | None) -> WeightLayer:
    """The layer of a chain; ``before`` is the padding in front of it, which joins its own."""
    depthwise = isinstance(layer, Conv) and layer.depthwise
    if not isinstance(layer, Conv) or (before is None and not _is_spatial(layer)):
        return WeightLayer("conv", out, "linear", depthwise=depthwise)  # the same at each position
    kernel, stride, dilation = (_sizes(sizes, 1) for sizes in (layer.kernel, layer.stride, layer.dilation))
    start, end = (layer.padding, layer.padding)
    if before is not None:
        start, end = (tuple(map(sum, zip(layer.padding, own, strict=True))) for own in (before.start, before.end))
    more = _sizes(tuple(last - first for first, last in zip(start, end, strict=True)), 0)
    padding = _sizes(start, 0)
    return WeightLayer(
        "conv", out, "linear", kernel, stride, padding, dilation=dilation, depthwise=depthwise, more=more
    )


def _sizes(sizes: tuple[int, ...], other: int) -> Sizes:
    """Rows and columns, and what is before them; those of a sequence are its positions, in one column."""
    *depth, high, wide = sizes if len(sizes) > 1 else (*sizes, other)
    if depth:
        return (*depth, high, wide)  # pyright: ignore[reportReturnType]
    return high if high == wide else (high, wide)


def _followed(layer: WeightLayer, by: ActivationLayer | Pool, axes: int) -> WeightLayer:
    """The layer with an activation or a pool behind what follows it so far."""
    if isinstance(by, Pool):
        return replace(layer, pools=(*layer.pools, _pooling(by, axes)))
    if layer.activation != "linear":
        return layer  # a rectifier once more
    phi = _activation(by)
    return replace(layer, activation=phi.name, parameter=phi.parameter, early=len(layer.pools))


def _pooling(pool: Pool, axes: int) -> Pooling:
    """The pool of a chain over maps of so many axes."""
    along = pool.along if pool.output is None or len(pool.output) in (axes, 1) else (PoolAxis(output=1),)
    ones = [PoolAxis(output=1)] * (axes - len(along))
    return Pooling(pool.function, (*along, *ones), pool.count_padding)


def _activation(layer: ActivationLayer) -> Activation:
    name = ACTIVATIONS[layer.function]
    if name not in PARAMETERS:
        return Activation(name)
    (parameter,) = layer.parameters or USUAL[name]
    return Activation("relu") if name in ("leaky_relu", "elu") and parameter == 0 else Activation(name, parameter)
