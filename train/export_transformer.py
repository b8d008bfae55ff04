"""A transformer's folder: what ``from_pretrained`` takes, and a program that torch runs by itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from train.data.dataset import Dataset
from train.export import Package, copy_loader, plain_weights, sample_inputs, write_config
from train.models import program
from train.result import Note
from train.task import task_for

PROGRAM = "program.pt2"


class OnTokens(nn.Module):
    """A transformer as a function of tokens, and of labels where those are sequences, to scores."""

    def __init__(self, model: nn.Module, data: Dataset) -> None:
        super().__init__()
        members: Any = getattr(model, "members", [model])
        for member in members:
            member.set_attn_implementation("eager")  # fused attention has no ONNX form
        self.model = model
        self._task = task_for(data, model)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores ``(batch, classes)`` or ``(batch, tokens, vocabulary)``."""
        return self._task.scores(self.model, inputs, inputs if labels is None else labels)


def write_transformer(package: Package, folder: Path) -> None:
    """The library's own folder; its ``config.json`` also carries our description, under ``collegium``."""
    model: Any = package.model.cpu().eval()
    settings: dict[str, Any] = {}
    if package.copies == 1:
        model.save_pretrained(folder)
        settings = json.loads((folder / "config.json").read_text())
    else:
        save_file(plain_weights(model), folder / "model.safetensors", {"format": "pt"})
        if "pretrained" in package.formats:
            reason = "Several models that are averaged are not one that from_pretrained could take."
            package.notes.append(Note(kind="pretrained_missing", message=reason))
    loader = {"network": "Program", "arguments": {"file": PROGRAM}, "copies": 1}
    write_config(folder, package, loader, settings)
    if "safetensors" in package.formats:
        _write_program(model, package.data, folder / PROGRAM)
        copy_loader(folder, Path(str(program.__file__)))


def _write_program(model: nn.Module, data: Dataset, path: Path) -> None:
    x, y = sample_inputs(data)
    inputs = (x,) if data.classes else (x, y)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about constants that are meant as such
        exported = torch.export.export(
            OnTokens(model, data).eval(),
            inputs,
            dynamic_shapes=tuple({0: batch} for _ in inputs)
            if data.classes
            else {"inputs": {0: batch}, "labels": {0: batch}},
        )
        torch.export.save(exported, path)
