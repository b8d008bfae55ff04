"""ONNX, written only where onnxruntime computes what PyTorch computes."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from collegium.train.export.format import ExportFormat
from collegium.train.result import Note

if TYPE_CHECKING:
    from torch import Tensor, nn

    from collegium.train.data.dataset import Dataset
    from collegium.train.export.package import Package

TOLERANCE = 1e-3
"""Largest difference of logits that is taken for rounding, relative to the largest logit."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
OUTPUT = "scores"  # the name of the logits in every file written so far


class Onnx(ExportFormat):
    """``model.onnx`` with a free batch size; where it computes something else, a note instead of the file."""

    summary = "the model for ONNX runtimes, with a free batch size"
    files: ClassVar[Mapping[str, str]] = {"model.onnx": "the same model for ONNX runtimes; its batch size is free"}
    packages = ("onnx", "onnxruntime", "onnxscript")
    extra = "collegium[onnx]"

    def write(self, package: Package, folder: Path) -> None:
        """Write, run and compare; a file that differs is removed."""
        from torch.onnx.errors import OnnxExporterError

        target = folder / ".model.onnx"
        module, inputs, names = _traceable(package)
        try:
            _export(module, inputs, names, target)
            apart = difference(module, inputs, names, target)
        except OnnxExporterError as error:
            reason = f"PyTorch could not write this model as ONNX: {_first_line(error)}"
            package.notes.append(Note(kind="onnx_missing", message=reason))
            return
        if apart > TOLERANCE:
            target.unlink()
            reason = f"ONNX and PyTorch differ by {apart:.2g} of the largest logit."
            package.notes.append(Note(kind="onnx_missing", message=reason))
            return
        target.rename(folder / "model.onnx")


def _first_line(error: Exception) -> str:
    """What an error says, without the colours of a terminal."""
    lines = _COLOUR.sub("", str(error.__cause__ or error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _traceable(package: Package) -> tuple[nn.Module, tuple[Tensor, ...], list[str]]:
    """The model as a function of tensors, samples of them, and their names."""
    from collegium.train.export.package import sample_inputs

    x, y = sample_inputs(package.data)
    model = package.model.cpu().eval()
    inputs = (x, y) if y.ndim > 1 else (x,)
    return (model, inputs, ["inputs"]) if package.blueprint is not None else _on_tokens(model, inputs, package.data)


def _on_tokens(
    model: nn.Module, inputs: tuple[Tensor, ...], data: Dataset
) -> tuple[nn.Module, tuple[Tensor, ...], list[str]]:
    from collegium.train.export.transformer import OnTokens

    return OnTokens(model, data).eval(), inputs, ["inputs"] if data.classes else ["inputs", "labels"]


def _export(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], target: Path) -> None:
    import torch

    batch = torch.export.Dim("batch")
    free = tuple({0: batch} for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are none of the caller's
        torch.onnx.export(
            module,
            inputs,
            str(target),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=(free,) if _takes_any_number(module) else free,
        )


def _takes_any_number(module: nn.Module) -> bool:
    """Whether the inputs are one argument of ``forward``, as ``*inputs``."""
    first = next(iter(inspect.signature(module.forward).parameters.values()))
    return first.kind is inspect.Parameter.VAR_POSITIONAL


def difference(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], path: Path) -> float:
    """Largest difference between onnxruntime's logits and PyTorch's, relative to the largest logit.

    The batch is shorter than the one that was exported, to test that its size is free.
    """
    import onnxruntime
    import torch

    shorter = tuple(value[:-1] for value in inputs) if len(inputs[0]) > 1 else inputs
    with torch.no_grad():
        expected = module(*shorter).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(names, shorter, strict=True)}
    (logits,) = session.run([OUTPUT], feed)
    scale = max(float(np.abs(expected).max()), 1e-12)
    return float(np.abs(np.asarray(logits) - expected).max()) / scale
