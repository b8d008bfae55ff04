"""What a training leaves: a folder that a stranger can use with torch and safetensors alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import train.load
from train.card import model_card
from train.data.dataset import ArraySplit, Dataset
from train.models import averaged, ensembles, residual
from train.models.build import Blueprint
from train.result import Artifact, Note

SOURCES = {"MlpEnsemble": ensembles, "ChainEnsemble": ensembles, "ResNet": residual}
TEST_BYTES = 4 * 2**20
"""Test data that travels with the model, where it is no larger than this."""


@dataclass(frozen=True)
class Package:
    """A trained, collapsed model and all that is known of it."""

    model: nn.Module
    blueprint: Blueprint | None
    data: Dataset
    description: Mapping[str, Any]
    metrics: Mapping[str, Any]
    formats: tuple[str, ...]
    notes: list[Note] = field(default_factory=list)

    @property
    def copies(self) -> int:
        """How many models answer together."""
        return getattr(self.model, "models", 1)


def export(package: Package, folder: Path) -> tuple[Artifact, ...]:
    """Write the model, its description and its loader into ``folder``; what was written, with sizes and hashes.

    ``model.safetensors`` has plain names. ONNX is offered only where onnxruntime gives what PyTorch gives; otherwise
    a note says why it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.formats:
        if package.blueprint is None:
            from train.export_transformer import write_transformer

            write_transformer(package, folder)
        else:
            _write_plain(package, package.blueprint, folder)
        if "onnx" in package.formats:
            from train.export_onnx import write_onnx

            write_onnx(package, folder)
        _write_test_data(package.data, folder)
    (folder / "metrics.json").write_text(json.dumps(package.metrics, indent=1))
    (folder / "README.md").write_text(model_card(package.description, package.metrics, sorted(_files(folder))))
    return write_manifest(folder, package.description)


def _write_plain(package: Package, blueprint: Blueprint, folder: Path) -> None:
    save_file(plain_weights(package.model), folder / "model.safetensors", {"format": "pt"})
    loader = {"network": blueprint.network, "arguments": blueprint.arguments, "copies": package.copies}
    write_config(folder, package, loader)
    copy_loader(folder, Path(str(SOURCES[blueprint.network].__file__)))
    if package.copies > 1:
        shutil.copyfile(str(averaged.__file__), folder / "averaged.py")


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
    shutil.copyfile(str(train.load.__file__), folder / "load.py")
    shutil.copyfile(network, folder / "network.py")


def _write_test_data(data: Dataset, folder: Path) -> None:
    test = data.test
    if isinstance(test, ArraySplit) and test.x.nbytes + test.y.nbytes <= TEST_BYTES:
        save_file(
            {"x_test": test.x.cpu().contiguous(), "y_test": test.y.cpu().contiguous()}, folder / "test.safetensors"
        )


def write_manifest(folder: Path, description: Mapping[str, Any]) -> tuple[Artifact, ...]:
    """``manifest.json``: size and hash of every other file, and what the model was made from."""
    artifacts = [describe_file(folder / name) for name in sorted(_files(folder)) if name != "manifest.json"]
    manifest = {
        "files": {item.name: {"bytes": item.bytes, "sha256": item.sha256} for item in artifacts},
        **{key: description[key] for key in ("versions", "seed", "spec") if key in description},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return (*artifacts, describe_file(folder / "manifest.json"))


def describe_file(path: Path) -> Artifact:
    """Name, size and hash of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return Artifact(name=path.name, bytes=path.stat().st_size, sha256=digest.hexdigest())


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def sample_inputs(data: Dataset, count: int = 8) -> tuple[Tensor, Tensor]:
    """A few test samples as the network takes them, and their labels, on the CPU."""
    order = torch.arange(min(count, len(data.test)))
    x, y = next(iter(data.test.batches(order, count)))
    return data.preprocessing(x).cpu(), y.cpu()
