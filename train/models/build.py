"""From an architecture to a module, by way of plain arguments that a checkpoint can carry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from collegium.search.networks.chain import Chain
from collegium.search.networks.network import MlpNetwork, ResidualNetwork
from collegium.train.data.dataset import Dataset
from collegium.train.models import ensembles, residual
from collegium.train.models.resolve import Grouped, repeated_channels, sequences_for

MODULES = {
    "MlpEnsemble": ensembles.MlpEnsemble,
    "ChainEnsemble": ensembles.ChainEnsemble,
    "ResNet": residual.ResNet,
}


@dataclass(frozen=True)
class Blueprint:
    """A module's class, by name, and its arguments as plain values."""

    network: str
    arguments: dict[str, Any]

    def build(self, *, seed: int) -> nn.Module:
        """The module, initialized from ``seed`` alone."""
        with seeded(seed):
            return MODULES[self.network](**self.arguments)


def blueprint(members: Grouped) -> Blueprint:
    """The module of an architecture; its parameters number ``members.parameters``."""
    network, widths, m = members.network, members.widths, members.multiplicity
    if isinstance(network, ResidualNetwork):
        return Blueprint("ResNet", _residual_arguments(network, widths, m))
    if isinstance(network, MlpNetwork):
        inputs, *hidden, outputs = (shape[0] for shape in network.chain.shapes(widths))
        arguments = {"inputs": inputs, "hidden": hidden, "outputs": outputs, "members": m, "bias": network.bias}
        return Blueprint("MlpEnsemble", arguments)
    return Blueprint("ChainEnsemble", {"layers": _chain_layers(network.chain.at(widths)), "members": m})


def _residual_arguments(network: ResidualNetwork, widths: tuple[int, ...], m: int) -> dict[str, Any]:
    stages = []
    for stage in network.stages:
        channels = [m * stage.scale * width for width in widths]
        if network.block == "bottleneck" and len(channels) == 1:
            channels *= 2
        stages.append(
            [
                {
                    "inputs": stage.inputs if index == 0 else stage.outputs,
                    "widths": channels,
                    "outputs": stage.outputs,
                    "stride": stage.stride if index == 0 else 1,
                }
                for index in range(stage.blocks)
            ]
        )
    return {
        "stem_kernel": network.stem_kernel,
        "stem_channels": network.stem_channels,
        "stages": stages,
        "groups": m,
        "classes": network.classes,
    }


def _chain_layers(chain: Chain) -> list[dict[str, Any]]:
    layers = []
    for layer, (channels, height, width) in zip(chain.layers, chain.shapes(()), strict=False):
        entry: dict[str, Any] = {"kind": layer.kind, "out": layer.out, "relu": layer.activation == "relu"}
        if layer.kind == "dense":
            entry["inputs"] = channels * height * width
        else:
            geometry = {name: getattr(layer, name) for name in ("kernel", "stride", "padding", "groups")}
            entry |= {"inputs": channels, **geometry}
        layers.append(entry)
    return layers


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch's CPU generator starts from ``seed``; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def fitted(members: Grouped, data: Dataset) -> tuple[Grouped, int | None]:
    """``members`` with a head for the data's classes, and the channels to which grey images must be repeated.

    Raises ``Mismatch`` where the data's samples are not what the network takes.
    """
    if data.kind == "tokens":
        raise sequences_for(data.name)
    channels = repeated_channels(members, data.name, tuple(data.shape))
    return (members if members.outputs == data.classes else members.with_outputs(data.classes)), channels
