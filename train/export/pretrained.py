"""A folder that ``from_pretrained`` of the transformers library takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from collegium.train.export.format import ExportFormat
from collegium.train.result import Note
from collegium.train.spec.architecture import TransformerArchitecture

if TYPE_CHECKING:
    from collegium.train.export.package import Package
    from collegium.train.spec.training import TrainingSpec


class Pretrained(ExportFormat):
    """The form in which a single transformer's weights are written in any case."""

    summary = "a transformer as a folder that from_pretrained takes"
    files: ClassVar[Mapping[str, str]] = {"generation_config.json": "settings for writing text"}

    def refusal(self, spec: TrainingSpec) -> str | None:
        """Anything but a transformer has no such form."""
        if isinstance(spec.architecture, TransformerArchitecture):
            return None
        return "only a transformer is written as a folder that from_pretrained takes"

    def write(self, package: Package, folder: Path) -> None:
        """A note where several models are averaged."""
        if package.models > 1:
            reason = "Several models that are averaged are not one that from_pretrained could take."
            package.notes.append(Note(kind="pretrained_missing", message=reason))
