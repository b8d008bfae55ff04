"""What a training leaves: a folder that a stranger can use with torch and safetensors alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from collegium.train.data.dataset import ArraySplit, Dataset
from collegium.train.export.card import model_card
from collegium.train.export.onnx import write_onnx
from collegium.train.export.package import Package, copy_loader, describe_file, plain_weights, write_config
from collegium.train.export.transformer import write_transformer
from collegium.train.models import averaged, ensembles, residual
from collegium.train.models.build import Blueprint
from collegium.train.result import Artifact

SOURCES = {"MlpEnsemble": ensembles, "ChainEnsemble": ensembles, "ResNet": residual}
TEST_BYTES = 4 * 2**20
"""Test data that travels with the model, where it is no larger than this."""


def export(package: Package, folder: Path) -> tuple[Artifact, ...]:
    """Write the model, its description and its loader into ``folder``; what was written, with sizes and hashes.

    ``model.safetensors`` has plain names. ONNX is offered only where onnxruntime gives what PyTorch gives; otherwise
    a note says why it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.formats:
        if package.blueprint is None:
            write_transformer(package, folder)
        else:
            _write_plain(package, package.blueprint, folder)
        if "onnx" in package.formats:
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
