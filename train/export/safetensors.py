"""Weights as safetensors, with a loader that needs torch and safetensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from collegium.train.export.format import ExportFormat

if TYPE_CHECKING:
    from collegium.train.export.package import Package


class Safetensors(ExportFormat):
    """The weights, which every export has, and what loads them without the library that defined the model.

    The network's own source is that for an ensemble or a residual network; a transformer is exported as a program.
    """

    summary = "weights with a loader that needs torch and safetensors alone"
    files: ClassVar[Mapping[str, str]] = {"program.pt2": "the same model as a program that torch runs by itself"}

    def write(self, package: Package, folder: Path) -> None:
        """A transformer's program; other models have their loader already."""
        if package.blueprint is None:
            from collegium.train.export.transformer import write_program

            write_program(package, folder)
