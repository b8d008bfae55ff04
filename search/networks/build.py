"""From a baseline as posted to the network that a search works on; the place where a wrong baseline is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from collegium.search.errors import InvalidSpec
from collegium.search.networks.chain import Activation, Chain, Free, WeightLayer
from collegium.search.networks.network import (
    BlockNetwork,
    MlpNetwork,
    Network,
    ResidualNetwork,
    Stage,
    mlp_chain,
    residual_chain,
)
from collegium.search.networks.presets import PRESETS
from collegium.search.spec import (
    BlockBaseline,
    ConvLayer,
    DenseLayer,
    LinearLayer,
    MlpBaseline,
    PresetBaseline,
    ReluLayer,
    ResNextBaseline,
    SearchSpec,
)
from collegium.search.validate import check_network, check_search

Posted = PresetBaseline | MlpBaseline | ResNextBaseline | BlockBaseline

#: Blocks per stage by depth; the usual networks of He et al. 2016.
IMAGENET_BLOCKS = {
    "bottleneck": {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
    "basic": {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
}
#: Input size and default classes by layout.
LAYOUTS = {"cifar": (32, 10), "imagenet": (224, 1000), "imagenet32": (32, 1000), "imagenet64": (64, 1000)}


def expand_preset(baseline: Posted) -> MlpBaseline | ResNextBaseline | BlockBaseline:
    """The full baseline behind a preset's name. Raises ``InvalidSpec`` for an unknown one."""
    if not isinstance(baseline, PresetBaseline):
        return baseline
    if baseline.preset not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise InvalidSpec(("baseline", "preset"), f"no preset is called '{baseline.preset}'; there are: {known}")
    return PRESETS[baseline.preset][0]


def build_network(baseline: Posted) -> Network:
    """Lower a baseline; counts are exact and nothing is allocated. Raises ``InvalidSpec`` with the field's path."""
    full = expand_preset(baseline)
    if isinstance(full, MlpBaseline):
        network: Network = _mlp(full)
    elif isinstance(full, ResNextBaseline):
        network = _residual(full)
    else:
        network = _block(full)
    check_network(network)
    return network


def validate_search(spec: SearchSpec) -> Network:
    """Validate a search and cost it analytically, before anything is stored or allocated. Raises ``InvalidSpec``."""
    network = build_network(spec.baseline)
    check_search(spec, network)
    return network


def describe_presets() -> list[dict[str, Any]]:
    """Every preset with its full baseline and its parameters and FLOPs, as ``GET /v1/presets`` lists them."""
    rows = []
    for name, (baseline, about) in PRESETS.items():
        network = build_network(baseline)
        rows.append(
            {
                "name": name,
                "about": about,
                "baseline": baseline.model_dump(mode="json", exclude_none=True),
                "parameters": network.count("parameters", network.baseline, network.multiplicity),
                "flops": network.count("flops", network.baseline, network.multiplicity),
            }
        )
    return rows


def _mlp(spec: MlpBaseline) -> MlpNetwork:
    chain = mlp_chain(spec.inputs, len(spec.hidden), spec.outputs)
    title = f"MLP {spec.inputs}→{list(spec.hidden)}→{spec.outputs}"
    return MlpNetwork(title, chain, spec.hidden, 1, spec.bias)


def _residual(spec: ResNextBaseline) -> ResidualNetwork:
    blocks = _blocks(spec)
    size, classes = LAYOUTS[spec.layout]
    imagenet = spec.layout == "imagenet"
    expansion = 4 if spec.block == "bottleneck" else 1
    stem_size = size // 2 if imagenet else size
    spatial = size // 4 if imagenet else size
    stages, inputs = [], 64
    for index, count in enumerate(blocks):
        stride = 1 if index == 0 else 2
        spatial = -(-spatial // stride)
        outputs = 64 * expansion * 2**index
        stages.append(Stage(count, inputs, outputs, stride, 2**index, spatial))
        inputs = outputs
    depth = spec.depth or sum(blocks) * (3 if spec.block == "bottleneck" else 2) + 2
    chain = residual_chain(spec.block, 64 * expansion)
    return ResidualNetwork(
        title=f"{'ResNeXt' if spec.cardinality > 1 or not imagenet else 'ResNet'}-{depth} "
        f"{spec.cardinality}×{spec.base_width}d ({spec.layout})",
        chain=chain,
        baseline=(spec.base_width,) * len(chain.names),
        multiplicity=spec.cardinality,
        block=spec.block,
        stages=tuple(stages),
        stem_kernel=7 if imagenet else 3,
        pooled_stem=imagenet,
        stem_size=stem_size,
        classes=spec.classes or classes,
    )


def _blocks(spec: ResNextBaseline) -> tuple[int, ...]:
    if (spec.depth is None) == (spec.blocks is None):
        raise InvalidSpec(("baseline", "depth"), "give either 'depth' or 'blocks', and not both")
    if spec.blocks is not None:
        return spec.blocks
    assert spec.depth is not None
    if spec.layout == "imagenet":
        known = IMAGENET_BLOCKS[spec.block]
        if spec.depth not in known:
            raise InvalidSpec(
                ("baseline", "depth"),
                f"an ImageNet network of {spec.block} blocks has depth {sorted(known)}; for another, give 'blocks'",
            )
        return known[spec.depth]
    per_block = 9 if spec.block == "bottleneck" else 6
    if spec.depth < per_block + 2 or (spec.depth - 2) % per_block:
        raise InvalidSpec(
            ("baseline", "depth"),
            f"three stages of {spec.block} blocks have depth {per_block}·k + 2, such as {3 * per_block + 2}; "
            "for another, give 'blocks'",
        )
    return ((spec.depth - 2) // per_block,) * 3


def _block(spec: BlockBaseline) -> BlockNetwork:
    names = tuple(spec.widths)
    layers: list[WeightLayer] = []
    seen: set[str] = set()
    shape = (spec.input.height, spec.input.width)
    channels = spec.input.channels
    for index, layer in enumerate(spec.layers):
        path = ("baseline", "layers", index)
        if isinstance(layer, ReluLayer | LinearLayer):
            _activate(layers, layer.type, path)
            continue
        layers.append(_weight_layer(layer, names, path))
        if isinstance(layer.out, str):
            seen.add(layer.out)
        channels, shape = _advance(layers[-1], channels, shape, spec, path)
    _complete(layers, spec, seen)
    chain = Chain(spec.input.channels, spec.input.height, spec.input.width, tuple(layers), names)
    return BlockNetwork("block", chain, tuple(spec.widths.values()), 1)


def _activate(layers: list[WeightLayer], activation: Activation, path: tuple[str | int, ...]) -> None:
    if not layers:
        raise InvalidSpec(path, "an activation must follow a 'conv' or a 'dense' layer; the input itself is linear")
    if layers[-1].activation == "relu":
        raise InvalidSpec(path, "one activation is enough after each 'conv' or 'dense' layer")
    layers[-1] = replace(layers[-1], activation=activation)


def _weight_layer(layer: ConvLayer | DenseLayer, names: tuple[str, ...], path: tuple[str | int, ...]) -> WeightLayer:
    out: int | Free
    if isinstance(layer.out, str):
        if layer.out not in names:
            raise InvalidSpec(
                (*path, "out"), f"the free width '{layer.out}' needs its baseline value in baseline.widths"
            )
        out = Free(names.index(layer.out))
    else:
        out = layer.out
    if isinstance(layer, DenseLayer):
        return WeightLayer("dense", out, "linear")
    padding = (layer.kernel - 1) // 2 if layer.padding is None else layer.padding
    return WeightLayer("conv", out, "linear", layer.kernel, layer.stride, padding, layer.groups)


def _advance(
    layer: WeightLayer,
    channels: int,
    shape: tuple[int, int],
    spec: BlockBaseline,
    path: tuple[str | int, ...],
) -> tuple[int, tuple[int, int]]:
    out = tuple(spec.widths.values())[layer.out.index] if isinstance(layer.out, Free) else layer.out
    if layer.kind == "dense":
        return out, (1, 1)
    if layer.padding >= layer.kernel:
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


def _complete(layers: list[WeightLayer], spec: BlockBaseline, seen: set[str]) -> None:
    if not layers:
        raise InvalidSpec(("baseline", "layers"), "give at least one 'conv' or 'dense' layer")
    unused = [name for name in spec.widths if name not in seen]
    if unused:
        raise InvalidSpec(("baseline", "widths", unused[0]), "no layer has this width as its 'out'")
    last = len(spec.layers) - 1
    if isinstance(layers[-1].out, Free):
        raise InvalidSpec(("baseline", "layers", last, "out"), "the last layer's outputs must be a fixed number")
    if layers[-1].activation != "linear":
        raise InvalidSpec(
            ("baseline", "layers", last), "the last weight layer must be linear: its units are the outputs"
        )
    grouped = [layer for layer in layers if layer.groups > 1]
    if any(isinstance(layer.out, Free) for layer in grouped):
        index = next(i for i, item in enumerate(spec.layers) if isinstance(item, ConvLayer) and item.groups > 1)
        raise InvalidSpec(
            ("baseline", "layers", index, "groups"),
            "a layer of free width cannot be grouped; grouping is what is searched",
        )
