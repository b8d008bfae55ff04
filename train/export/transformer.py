"""A transformer's folder: what ``from_pretrained`` takes, and a program that torch runs by itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from collegium.train.data.dataset import Dataset
from collegium.train.export.package import Package, copy_loader, plain_weights, sample_inputs, write_config
from collegium.train.loop.task import task_for
from collegium.train.models import program
from collegium.train.result import Note

PROGRAM = "program.pt2"
TOLERANCE = 1e-4
"""Largest difference of logits between the model and its program that is taken for rounding."""


class OnTokens(nn.Module):
    """A transformer as a function of tokens, and of labels where those are sequences, to logits."""

    def __init__(self, model: nn.Module, data: Dataset) -> None:
        super().__init__()
        members: Any = getattr(model, "members", [model])
        for member in members:
            member.set_attn_implementation("eager")  # fused attention has no ONNX form
        self.model = model
        self._task = task_for(data, model)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits ``(batch, classes)`` or ``(batch, tokens, vocabulary)``."""
        return self._task.logits(self.model, inputs, inputs if labels is None else labels)


def write_transformer(package: Package, folder: Path) -> None:
    """The library's own folder; its ``config.json`` also has the description, under ``collegium``."""
    model: Any = package.model.cpu().eval()
    settings: dict[str, Any] = {}
    if package.models == 1:
        model.save_pretrained(folder)
        settings = json.loads((folder / "config.json").read_text())
    else:
        save_file(plain_weights(model), folder / "model.safetensors", {"format": "pt"})
    loader = {"network": "Program", "arguments": {"file": PROGRAM}, "copies": 1}
    write_config(folder, package, loader, settings)


def write_program(package: Package, folder: Path) -> None:
    """``program.pt2`` and its loader; where it cannot be written or computes something else, a note instead."""
    try:
        _export_program(package.model.cpu().eval(), package.data, folder / PROGRAM)
    except (RuntimeError, AssertionError, ValueError) as error:
        (folder / PROGRAM).unlink(missing_ok=True)
        reason = f"PyTorch could not write this model as a program: {str(error).splitlines()[0]}"
        package.notes.append(Note(kind="program_missing", message=reason))
    else:
        copy_loader(folder, Path(str(program.__file__)))


def _export_program(model: nn.Module, data: Dataset, path: Path) -> None:
    """Export the model, and make sure that what is read back computes the same. Raises where it does not."""
    x, y = sample_inputs(data)
    inputs = {"inputs": x} if data.classes else {"inputs": x, "labels": y}
    module, batch = OnTokens(model, data).eval(), torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns about constants that are meant as such
        shapes = {name: {0: batch} for name in inputs}
        torch.export.save(torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes), path)
        shorter = [value[:-1] for value in inputs.values()]
        apart = torch.export.load(path).module()(*shorter) - module(*shorter)
    if not float(apart.abs().max()) < TOLERANCE:
        raise ValueError("the program computes something else")
