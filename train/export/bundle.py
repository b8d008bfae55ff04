"""What a training leaves: a self-contained folder, which torch and safetensors alone can load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from collegium.train.data.dataset import ArraySplit, Dataset
from collegium.train.export import EXPORT_FORMATS
from collegium.train.export.card import model_card
from collegium.train.export.package import Package, copy_loader, describe_file, plain_weights, write_config
from collegium.train.export.transformer import write_transformer
from collegium.train.models import averaged
from collegium.train.models.build import Blueprint
from collegium.train.result import Artifact, Note

TEST_BYTES = 4 * 2**20
"""Test data are written with the model where they are no larger than this."""


def export(package: Package, folder: Path) -> tuple[Artifact, ...]:
    """Write the model, its description and its loader into ``folder``; what was written, with sizes and hashes.

    ``model.safetensors`` has plain names. Each of the package's formats adds its files, or a note with the reason why
    they are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.formats:
        if package.blueprint is None:
            write_transformer(package, folder)
        else:
            _write_plain(package, package.blueprint, folder)
        _write_formats(package, folder)
        _write_test_data(package.data, folder)
    (folder / "metrics.json").write_text(json.dumps(package.metrics, indent=1))
    described = {**package.description, "torchvision": package.torchvision}
    (folder / "README.md").write_text(model_card(described, package.metrics, sorted(_files(folder))), encoding="utf-8")
    return write_manifest(folder, package.description)


def _write_formats(package: Package, folder: Path) -> None:
    for name in EXPORT_FORMATS.names:
        if name in package.formats:
            try:
                EXPORT_FORMATS[name]().write(package, folder)
            except Exception as error:  # a format of any package: the weights are written, and are not lost with it
                message = f"The format {name} could not be written: {type(error).__name__}: {error}"
                package.notes.append(Note(kind=f"{name}_missing", message=message))


def _write_plain(package: Package, blueprint: Blueprint, folder: Path) -> None:
    save_file(plain_weights(package.model), folder / "model.safetensors", {"format": "pt"})
    loader = {"network": blueprint.network, "arguments": blueprint.arguments, "copies": package.models}
    if package.torchvision is not None:
        loader["torchvision"] = package.torchvision
    write_config(folder, package, loader)
    copy_loader(folder, blueprint.source)
    if package.models > 1:
        shutil.copyfile(str(averaged.__file__), folder / "averaged.py")


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


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
