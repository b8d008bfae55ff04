"""A trained model with its description, and the files that every form of it has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import collegium.train.export.templates.load
from collegium.search.networks.families.resnext import RESNEXT
from collegium.train.data.dataset import Dataset
from collegium.train.export.torchvision_resnet import torchvision_arguments
from collegium.train.models.build import Blueprint
from collegium.train.result import Artifact, Note


@dataclass(frozen=True)
class Package:
    """A trained, collapsed model, its data and its description; ``formats`` are the names of export formats."""

    model: nn.Module
    blueprint: Blueprint | None
    data: Dataset
    description: Mapping[str, Any]
    metrics: Mapping[str, Any]
    formats: tuple[str, ...]
    notes: list[Note] = field(default_factory=list)

    @property
    def models(self) -> int:
        """How many models are averaged."""
        return getattr(self.model, "models", 1)

    @property
    def torchvision(self) -> dict[str, Any] | None:
        """Torchvision's arguments for the same network; None where it has none, or where several are averaged."""
        if self.blueprint is None or self.blueprint.module != RESNEXT.module or self.models > 1:
            return None
        return torchvision_arguments(self.blueprint.arguments)


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU, each in memory of its own."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}


def write_config(
    folder: Path, package: Package, loader: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> None:
    """``config.json``: what ``load.py`` needs, and what the model is."""
    description = {**loader, "preprocessing": package.data.preprocessing.describe(), **package.description}
    (folder / "config.json").write_text(json.dumps({**(extra or {}), "collegium": description}, indent=1))


def copy_loader(folder: Path, network: Path) -> None:
    """``load.py`` and the network's own source, as ``network.py``."""
    shutil.copyfile(str(collegium.train.export.templates.load.__file__), folder / "load.py")
    shutil.copyfile(network, folder / "network.py")


def sample_inputs(data: Dataset, count: int = 8) -> tuple[Tensor, Tensor]:
    """A few test samples as the network takes them, and their labels, on the CPU."""
    order = torch.arange(min(count, len(data.test)))
    x, y = next(iter(data.test.batches(order, count)))
    return data.preprocessing(x).cpu(), y.cpu()


def describe_file(path: Path) -> Artifact:
    """Name, size and hash of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return Artifact(name=path.name, bytes=path.stat().st_size, sha256=digest.hexdigest())
