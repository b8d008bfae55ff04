"""From an architecture to a module, by way of plain arguments that a checkpoint can carry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from collegium.search.errors import SampleMismatch
from collegium.search.networks.family import FAMILIES
from collegium.train.data.dataset import Dataset
from collegium.train.data.format import Sample
from collegium.train.errors import Mismatch
from collegium.train.models.grouping import GroupedNetwork, for_samples, for_tokens


@dataclass(frozen=True)
class Blueprint:
    """A module's class, as ``package.module:Class``, and its arguments as plain values."""

    module: str
    arguments: dict[str, Any]

    @property
    def network(self) -> str:
        """The name of the class, by which a checkpoint's loader finds it in the copied file."""
        return self.module.partition(":")[2]

    @property
    def source(self) -> Path:
        """The file of the class, which imports torch alone and travels with every checkpoint."""
        return Path(str(import_module(self.module.partition(":")[0]).__file__))

    def build(self, *, seed: int) -> nn.Module:
        """The module, initialized from ``seed`` alone."""
        create = getattr(import_module(self.module.partition(":")[0]), self.network)
        with seeded(seed):
            return create(**self.arguments)


def blueprint(ensemble: GroupedNetwork, *, dropout: float = 0.0) -> Blueprint:
    """The module of an architecture; its parameters number ``ensemble.parameters``.

    ``dropout`` is for families whose modules take one.
    """
    given = {"dropout": dropout} if dropout else {}
    return Blueprint(FAMILIES[ensemble.network.family].module, {**ensemble.arguments, **given})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch's CPU generator starts from ``seed``; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def fitted(ensemble: GroupedNetwork, data: Dataset) -> tuple[GroupedNetwork, int | None]:
    """``ensemble`` for the data's samples and classes, and the channels to which grey images must be repeated.

    Raises ``Mismatch`` where the data's samples are not what the network takes.
    """
    channels = None
    if data.kind == "tokens":
        sample = Sample("tokens", tuple(data.shape), data.vocabulary or None, not data.classes)
        ensemble = for_tokens(ensemble, data.name, sample)
    else:
        ensemble, channels = for_samples(ensemble, data.name, tuple(data.shape))
    if ensemble.outputs == data.classes:
        return ensemble, channels
    try:
        return ensemble.with_outputs(data.classes), channels
    except SampleMismatch as mismatch:
        raise Mismatch(f"{data.name} {mismatch.message}", mismatch.remedy) from None
