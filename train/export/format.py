"""An export format: one form in which a trained model is written, in addition to its weights and their loader.

Adding one takes a file with a subclass of :class:`ExportFormat` and a line in the table of
:mod:`collegium.train.export`, or an entry point of another package in the group ``collegium.export_formats``::

    class TorchScript(ExportFormat):
        summary = "the model as TorchScript"
        files = {"model.pt": "the model as TorchScript"}

        def write(self, package, folder):
            import torch

            inputs, _ = sample_inputs(package.data)
            torch.jit.trace(package.model.cpu().eval(), inputs).save(folder / "model.pt")

Specifications are checked by the API process, which never loads torch: a format imports it inside ``write``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from collegium.train.errors import MissingExtra

if TYPE_CHECKING:
    from collegium.train.export.package import Package
    from collegium.train.spec.training import TrainingSpec


class ExportFormat(ABC):
    """One form of a trained model. An instance has no state.

    ``summary`` is one line for lists. ``files`` are the names of files that it writes, each with a line for the model
    card. ``packages`` are the top-level packages that it imports and that are not always installed, and ``extra``
    what to install for them.
    """

    summary: ClassVar[str]
    files: ClassVar[Mapping[str, str]] = {}
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    def refusal(self, spec: TrainingSpec) -> str | None:
        """Why the model of this training has no such form, or None; asked before the training starts."""
        return None

    def require_packages(self) -> None:
        """Raise ``MissingExtra`` where a package that ``write`` needs is not installed; nothing is imported."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise MissingExtra(
                f"{', '.join(missing)} is not installed, so the format cannot be written",
                f"install: pip install '{self.extra}'",
            )

    @abstractmethod
    def write(self, package: Package, folder: Path) -> None:
        """Write files into ``folder``, which holds weights and loader already.

        Where the result would compute something else than the model, a note in ``package.notes`` takes its place.
        """
