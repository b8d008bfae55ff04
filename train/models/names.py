"""Names of the modules and parameters of a network that is not built yet, by its module's arguments. No torch here.

A family whose module is another package's has none here, and is asked once it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from collegium.search.networks.family import FAMILIES
from collegium.train.majority.targets.names import ATTENTION, Names, prefixes
from collegium.train.models.grouping import GroupedNetwork

Arguments = Mapping[str, Any]
Module = tuple[str, tuple[str, ...], int]
"""A module's name, the names of its own parameters, and how many of these, the first ones, may be kernels."""


def module_names(ensemble: GroupedNetwork, *, dropout: float = 0.0) -> Names | None:
    """The names in the network that is built of ``ensemble``; None where they are not known without building it.

    Weights of recurrent layers are among the kernels: they are where patterns cover them, and not without any.
    """
    listed = _LISTED.get(FAMILIES[ensemble.network.family].module)
    if listed is None:
        return None
    modules, parameters, kernels = {"": None}, [], []
    for name, own, weights in listed({**ensemble.arguments, **({"dropout": dropout} if dropout else {})}):
        modules |= dict.fromkeys(prefixes(name))
        full = [f"{name}.{each}" if name else each for each in own]
        parameters += full
        kernels += full[:weights]
    return Names(tuple(modules), tuple(parameters), tuple(kernels))


def _mlp(arguments: Arguments) -> Iterator[Module]:
    yield "dropout", (), 0
    own = ("weight", "bias") if arguments.get("bias") else ("weight",)
    for index in range(len(arguments["hidden"]) + 1):
        yield f"layers.{index}", own, 1


def _chain(arguments: Arguments) -> Iterator[Module]:
    yield "dropout", (), 0
    for index in range(len(arguments["layers"])):
        yield f"layers.{index}", ("weight",), 1


_LAYERS = {"bottleneck": 3, "basic": 2}


def _resnet(arguments: Arguments) -> Iterator[Module]:
    yield from _normed("conv1", "bn1")
    yield "relu", (), 0
    if arguments["stem_kernel"] == 7:
        yield "maxpool", (), 0
    for stage, blocks in enumerate(arguments["stages"], start=1):
        for index, block in enumerate(blocks):
            yield from _residual(f"layer{stage}.{index}", _LAYERS[arguments["block"]], block)
    yield "avgpool", (), 0
    if arguments.get("dropout"):
        yield "dropout", (), 0
    yield "fc", ("weight", "bias"), 1


def _residual(name: str, layers: int, block: Arguments) -> Iterator[Module]:
    for layer in range(1, layers + 1):
        yield from _normed(f"{name}.conv{layer}", f"{name}.bn{layer}")
    yield f"{name}.relu", (), 0
    if block["inputs"] != block["outputs"] or block["stride"] != 1:
        yield from _normed(f"{name}.downsample.0", f"{name}.downsample.1")


def _normed(convolution: str, norm: str) -> Iterator[Module]:
    yield convolution, ("weight",), 1
    yield norm, ("weight", "bias"), 0


def _graph(arguments: Arguments) -> Iterator[Module]:
    graph = arguments["graph"]
    for layer in graph["layers"]:
        if layer["kind"] == "parameter":
            owner, _, name = layer["path"].rpartition(".")
            yield owner, (name,), int(bool(owner) and name in ATTENTION)
        elif layer["kind"] == "recurrent":
            weights = [name for name in layer["laws"] if name.startswith("weight")]
            yield layer["path"], (*weights, *(each for each in layer["laws"] if each not in weights)), len(weights)
        else:
            own = tuple(name for name in ("weight", "bias") if layer.get(name) is not None)
            yield layer["path"], own, int(layer["kind"] in ("conv", "linear"))
    for _, second in graph.get("tied", ()):
        owner, _, name = second.rpartition(".")
        yield owner, (name,), 0


_LISTED: dict[str, Callable[[Arguments], Iterator[Module]]] = {
    "collegium.train.models.ensembles:MlpEnsemble": _mlp,
    "collegium.train.models.ensembles:ChainEnsemble": _chain,
    "collegium.train.models.residual:ResNet": _resnet,
    "collegium.search.regroup.grouped:GraphNetwork": _graph,
}
