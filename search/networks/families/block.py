"""A user's chain of convolutions and dense layers; what is wrong with it is refused with the path of the layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, assert_never

from pydantic import Field

from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.fields import MAX_LAYERS, Name, Strict, Width
from collegium.search.networks.activation import Activation, Alpha, LeakyRelu, NegativeSlope, lowered
from collegium.search.networks.chain import ROWS, Chain, Free, WeightLayer
from collegium.search.networks.family import Family, FamilyBaseline
from collegium.search.networks.footprint import Footprint, chain_footprints
from collegium.search.networks.network import Measure, Network, StageGrouping


class InputShape(Strict):
    """Shape of a block's input feature map."""

    channels: Width
    height: Annotated[int, Field(ge=1, le=4096)] = 1
    width: Annotated[int, Field(ge=1, le=4096)] = 1


class ConvLayer(Strict):
    """A convolution; ``out`` is a fixed number of channels or a free width's name. Padding: (kernel − 1) / 2."""

    type: Literal["conv"]
    out: Width | Name
    kernel: Annotated[int, Field(ge=1, le=63)] = 1
    stride: Annotated[int, Field(ge=1, le=63)] = 1
    padding: Annotated[int, Field(ge=0, le=63)] | None = None
    groups: Width = 1


class DenseLayer(Strict):
    """A dense layer over the flattened feature map."""

    type: Literal["dense"]
    out: Width | Name


class PlainLayer(Strict):
    """An activation without a parameter; ``linear`` is the identity."""

    type: Literal[
        "relu", "relu6", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "sigmoid", "tanh", "selu", "softplus",
        "linear", "identity",
    ]  # fmt: skip


class LeakyReluLayer(Strict):
    """A leaky rectifier."""

    type: Literal["leaky_relu"]
    negative_slope: NegativeSlope = 0.01


class EluLayer(Strict):
    """z above zero, ``alpha`` · (e^z − 1) below."""

    type: Literal["elu"]
    alpha: Alpha = 1.0


class CeluLayer(Strict):
    """z above zero, ``alpha`` · (e^(z / alpha) − 1) below."""

    type: Literal["celu"]
    alpha: Alpha = 1.0


BlockLayer = Annotated[
    ConvLayer | DenseLayer | PlainLayer | LeakyReluLayer | EluLayer | CeluLayer,
    Field(discriminator="type"),
]
Path = tuple[str | int, ...]


class BlockBaseline(FamilyBaseline):
    """A chain of layers; ``widths`` gives every free width its baseline value. Equal names are tied."""

    family: Literal["block"]
    input: InputShape
    layers: Annotated[tuple[BlockLayer, ...], Field(min_length=1, max_length=2 * MAX_LAYERS, strict=False)]
    widths: Annotated[dict[Name, Width], Field(min_length=1, max_length=MAX_LAYERS)]


@dataclass(frozen=True)
class BlockNetwork(Network):
    """m copies of a user's chain, their outputs summed.

    It has no biases and no norms, neither in the counts nor in the kernel nor in the module: what is counted is what
    the kernel's gradient runs over.
    """

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """Members have no parameters in common."""
        return 0, self.chain.parameters(widths) if measure == "parameters" else self.chain.flops(widths)

    @property
    def subject(self) -> str:
        """The block alone."""
        return "the block's kernel at initialization"

    @property
    def counted_layers(self) -> range:
        """Every weight layer."""
        return range(len(self.chain.layers))

    def footprints(self, stages: Sequence[StageGrouping], size: int | None = None) -> tuple[Footprint, ...]:
        """Those of its layers; grouped or dense layers that come first take a copy of the input for each member."""
        (own,) = stages
        parameters = self.count_stages("parameters", stages)
        first, *others = chain_footprints(self.chain, own.widths, own.multiplicity, parameters=parameters)
        layer, inputs = self.chain.layers[0], math.prod(self.sample_shape())
        copies = 0 if layer.kind == "conv" and layer.groups == 1 else own.multiplicity * inputs
        return replace(first, kept=first.kept + copies, live=first.live + copies), *others

    def repeated_channels(self, shape: tuple[int, ...]) -> int | None:
        """The input's own channels, for grey images of its extent."""
        chain = self.chain
        expected = (chain.channels, chain.height, chain.width)
        if shape == (1, *expected[1:]) and expected[0] > 1:
            return expected[0]
        if shape != expected:
            raise SampleMismatch(
                f"has samples of shape {shape} and the block takes {expected}", "give the block that 'input'"
            )
        return None

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        """Those of ``ChainEnsemble``: each layer of one member, with the inputs that it reads."""
        chain = self.chain.at(widths)
        shapes = chain.shapes(())
        layers = [
            _described(layer, gain, shape)
            for layer, gain, shape in zip(chain.layers, chain.gains, shapes, strict=False)
        ]
        return {"layers": layers, "members": multiplicity}


def _described(layer: WeightLayer, gain: float, shape: tuple[int, ...]) -> dict[str, Any]:
    phi = layer.phi
    entry: dict[str, Any] = {"kind": layer.kind, "out": layer.out, "relu": phi.name == "relu"}
    if phi.name not in ("relu", "linear"):
        entry |= {"activation": phi.name, "parameter": phi.parameter}
    if gain != (2 if phi.name == "relu" else 1):
        entry |= {"gain": gain}
    match layer.kind:
        case "dense":
            return entry | {"inputs": math.prod(shape)}
        case "conv":
            geometry = {name: getattr(layer, name) for name in ("kernel", "stride", "padding", "groups")}
            return entry | {"inputs": shape[0]} | geometry
    assert_never(layer.kind)


def _lower(baseline: BlockBaseline) -> BlockNetwork:
    names = tuple(baseline.widths)
    layers: list[WeightLayer] = []
    channels, shape = baseline.input.channels, (baseline.input.height, baseline.input.width)
    for index, layer in enumerate(baseline.layers):
        path = ("baseline", "layers", index)
        match layer:
            case PlainLayer():
                _activate(layers, lowered("identity" if layer.type == "linear" else layer.type), path)
            case LeakyReluLayer(negative_slope=slope):
                _activate(layers, lowered(LeakyRelu(name="leaky_relu", negative_slope=slope)), path)
            case EluLayer(alpha=alpha) | CeluLayer(alpha=alpha):
                _activate(layers, Activation(layer.type, alpha), path)
            case ConvLayer() | DenseLayer():
                layers.append(_weight_layer(layer, names, path))
                channels, shape = _advance(layers[-1], channels, shape, baseline, path)
            case _:
                assert_never(layer)
    _check_whole(layers, baseline)
    chain = Chain(baseline.input.channels, baseline.input.height, baseline.input.width, tuple(layers), names)
    return BlockNetwork("block", chain, tuple(baseline.widths.values()), 1)


def _activate(layers: list[WeightLayer], activation: Activation, path: Path) -> None:
    if not layers:
        raise InvalidSpec(path, "an activation must follow a 'conv' or a 'dense' layer; the input itself is linear")
    if layers[-1].activation != "linear":
        raise InvalidSpec(path, "one activation is enough after each 'conv' or 'dense' layer")
    layers[-1] = replace(layers[-1], activation=activation.name, parameter=activation.parameter)


def _weight_layer(layer: ConvLayer | DenseLayer, names: tuple[str, ...], path: Path) -> WeightLayer:
    out = _width(layer.out, names, path)
    match layer:
        case DenseLayer():
            return WeightLayer("dense", out, "linear")
        case ConvLayer():
            padding = (layer.kernel - 1) // 2 if layer.padding is None else layer.padding
            return WeightLayer("conv", out, "linear", layer.kernel, layer.stride, padding, layer.groups)
    assert_never(layer)


def _width(out: int | str, names: tuple[str, ...], path: Path) -> int | Free:
    if not isinstance(out, str):
        return out
    if out not in names:
        raise InvalidSpec((*path, "out"), f"the free width '{out}' needs its baseline value in baseline.widths")
    return Free(names.index(out))


def _advance(
    layer: WeightLayer, channels: int, shape: tuple[int, int], baseline: BlockBaseline, path: Path
) -> tuple[int, tuple[int, int]]:
    """Channels and extent after a layer. Raises ``InvalidSpec`` where it does not fit the map before it."""
    out = tuple(baseline.widths.values())[layer.out.index] if isinstance(layer.out, Free) else layer.out
    if layer.kind == "conv" and layer.along(ROWS).padding >= layer.along(ROWS).kernel:
        raise InvalidSpec((*path, "padding"), f"padding must be below the kernel's size, {layer.kernel}")
    if channels % layer.groups or out % layer.groups:
        raise InvalidSpec(
            (*path, "groups"),
            f"groups must divide the {channels} channels before the layer and its {out} outputs",
        )
    height, width = layer.output_size(shape[0]), layer.output_size(shape[1])
    if min(height, width) < 1:
        raise InvalidSpec((*path, "kernel"), f"a {shape[0]}×{shape[1]} map is too small for this kernel")
    return out, (height, width)


def _check_whole(layers: list[WeightLayer], baseline: BlockBaseline) -> None:
    """Refuse a chain without layers, without outputs, with free widths that it does not use or cannot group."""
    if not layers:
        raise InvalidSpec(("baseline", "layers"), "give at least one 'conv' or 'dense' layer")
    used = {layer.out.index for layer in layers if isinstance(layer.out, Free)}
    unused = [name for index, name in enumerate(baseline.widths) if index not in used]
    if unused:
        raise InvalidSpec(("baseline", "widths", unused[0]), "no layer has this width as its 'out'")
    last = len(baseline.layers) - 1
    if isinstance(layers[-1].out, Free):
        raise InvalidSpec(("baseline", "layers", last, "out"), "the last layer's outputs must be a fixed number")
    if layers[-1].activation != "linear":
        raise InvalidSpec(
            ("baseline", "layers", last), "the last weight layer must be linear: its units are the outputs"
        )
    for index, layer in enumerate(baseline.layers):
        if isinstance(layer, ConvLayer) and layer.groups > 1 and isinstance(layer.out, str):
            raise InvalidSpec(
                ("baseline", "layers", index, "groups"),
                "a layer of free width cannot be grouped; grouping is what is searched",
            )


BLOCK = Family(
    summary="a chain of convolutions and dense layers of your own",
    baseline=BlockBaseline,
    lower=_lower,
    module="collegium.train.models.ensembles:ChainEnsemble",
    dropout=True,
)
