"""ONNX on request, offered only after onnxruntime has given what PyTorch gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from collegium.train.data.dataset import Dataset
from collegium.train.errors import MissingExtra
from collegium.train.export.package import Package, sample_inputs
from collegium.train.result import Note

TOLERANCE = 1e-3
"""Largest difference of scores that is taken for rounding, relative to the largest score."""


def require_onnx() -> None:
    """Raise ``MissingExtra`` unless a model can be written and checked; asked before training starts."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} is not installed, so no ONNX file can be made", "install: pip install 'collegium[onnx]'"
        ) from error


def write_onnx(package: Package, folder: Path) -> None:
    """``model.onnx`` with a free batch size; where it computes something else, a note instead of the file."""
    x, y = sample_inputs(package.data)
    model = package.model.cpu().eval()
    inputs = (x, y) if y.ndim > 1 else (x,)
    target = folder / ".model.onnx"
    module, names = (model, ["inputs"]) if package.data.kind != "tokens" else _on_tokens(model, package.data)
    try:
        _write(module, inputs, names, target)
        apart = difference(module, inputs, names, target)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        package.notes.append(Note(kind="onnx_missing", message=f"PyTorch could not write this model as ONNX: {reason}"))
        return
    if apart > TOLERANCE:
        target.unlink()
        reason = f"ONNX and PyTorch differ by {apart:.2g} of the largest score."
        package.notes.append(Note(kind="onnx_missing", message=reason))
        return
    target.rename(folder / "model.onnx")


def _on_tokens(model: nn.Module, data: Dataset) -> tuple[nn.Module, list[str]]:
    from collegium.train.export.transformer import OnTokens

    return OnTokens(model, data).eval(), ["inputs"] if data.classes else ["inputs", "labels"]


def _write(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], target: Path) -> None:
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not this user's business
        torch.onnx.export(
            module,
            inputs,
            str(target),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=names,
            output_names=["scores"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )


def difference(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], path: Path) -> float:
    """Largest difference between onnxruntime's scores and PyTorch's, relative to the largest score.

    The batch is shorter than the one that was exported, so that its size is known to be free.
    """
    import onnxruntime

    shorter = tuple(value[:-1] for value in inputs) if len(inputs[0]) > 1 else inputs
    with torch.no_grad():
        expected = module(*shorter).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(names, shorter, strict=True)}
    (scores,) = session.run(["scores"], feed)
    scale = max(float(np.abs(expected).max()), 1e-12)
    return float(np.abs(np.asarray(scores) - expected).max()) / scale
