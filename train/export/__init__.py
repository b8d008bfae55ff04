"""What a training leaves: weights with their loader, and further formats by name.

A format is a class of :mod:`collegium.train.export.format` in a file of its own, and a line below; other packages add
theirs as entry points ``collegium.export_formats``. Nothing here loads torch.

>>> from collegium.train.export import EXPORT_FORMATS
>>> EXPORT_FORMATS["onnx"].packages
('onnx', 'onnxruntime', 'onnxscript')
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collegium.registry import Registry

if TYPE_CHECKING:
    from collegium.train.export.format import ExportFormat

_HERE = "collegium.train.export"

EXPORT_FORMATS: Registry[type[ExportFormat]] = Registry(
    "export format",
    "collegium.export_formats",
    {
        "safetensors": f"{_HERE}.safetensors:Safetensors",
        "onnx": f"{_HERE}.onnx:Onnx",
        "pretrained": f"{_HERE}.pretrained:Pretrained",
    },
)


def describe_export_formats() -> list[dict[str, Any]]:
    """Every usable format as plain values: ``name``, ``summary``, ``files`` with a line about each, and ``extra``."""
    return [
        {"name": name, "summary": made.summary, "files": dict(made.files), "extra": made.extra or None}
        for name, made in EXPORT_FORMATS.usable()
    ]
