"""A data format: how data sets are found, what is known of them before they are read, and how they are read.

Adding one takes a file with a subclass of :class:`DataFormat` and a line in the table of
:mod:`collegium.train.data.catalog`, or an entry point of another package in the group ``collegium.data_formats``::

    class Spirals(DataFormat):
        summary = "two interleaved spirals in the plane"
        names = ("spirals",)

        def sample(self, spec):
            return Sample("features", (2,))

        def load(self, spec, folders):
            x, y = two_spirals(spec.seed)
            return Arrays(x[:500], y[:500], x[500:], y[500:], classes=2, kind="features")

Specifications are checked by the API process, which never loads torch: a format imports it inside ``load``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from collegium.train.data.arrays import Arrays, Kind

if TYPE_CHECKING:
    from collegium.train.data.dataset import Dataset
    from collegium.train.spec.data import DataSpec

GENERIC_RECIPE = "generic"


@dataclass(frozen=True)
class Folders:
    """Where files are read from: ``data`` holds published data sets, ``uploads`` those that were uploaded."""

    data: Path | None = None
    uploads: Path | None = None


@dataclass(frozen=True)
class Sample:
    """One sample: ``shape`` is ``(channels, height, width)``, ``(features,)`` or ``(tokens,)``.

    Of tokens, ``vocabulary`` is a number that all of them are below, where one is known, and ``rewritten`` whether
    labels are sequences of tokens and no classes. ``training`` is how many there are to train on and to hold out,
    before a ``limit``, where that is known.
    """

    kind: Kind
    shape: tuple[int, ...]
    vocabulary: int | None = None
    rewritten: bool = False
    training: int | None = None


def steps_per_epoch(count: int, batch_size: int, world: int = 1) -> int:
    """Batches in an epoch. A last one with less than two samples for each of ``world`` processes is left out.

    Batch norm has no variance over one sample.
    """
    full, rest = divmod(count, batch_size)
    return max(1, full + (rest >= 2 * world))


class DataFormat(ABC):
    """One way in which data is stored. An instance has no state.

    ``summary`` is one line for lists. ``names`` are the data sets that it reads by name. Data under any other name is
    found by its files, which ``layout`` describes. ``options`` is a closed pydantic model of what
    a user may choose, given in the data specification under ``options_name``; formats may share one.
    """

    summary: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    layout: ClassVar[str] = ""
    options: ClassVar[type[BaseModel] | None] = None
    options_name: ClassVar[str] = ""

    def files(self, name: str) -> tuple[str, ...]:
        """Files or folders below the data folder, any one of which is enough; none where nothing is read."""
        return ()

    def source(self, name: str) -> str:
        """What the files of ``name`` hold, and where they can be had: the end of the sentence that asks for them."""
        return ""

    def finds(self, name: str, folders: Folders) -> bool:
        """Whether the files of ``name``, which is no format's own name, are of this format."""
        return False

    def sample(self, spec: DataSpec) -> Sample | None:
        """A sample as far as the specification alone determines it, else None."""
        return None

    def recipe(self, name: str) -> str:
        """The recipe that trains this data where a training names none."""
        return GENERIC_RECIPE

    @abstractmethod
    def load(self, spec: DataSpec, folders: Folders) -> Arrays | Dataset:
        """Read the data. Arrays are split by the caller. Raises ``DataError``."""

    def options_of(self, spec: DataSpec) -> Any:
        """This format's options as ``spec`` gives them, or their defaults."""
        assert self.options is not None
        return getattr(spec, self.options_name) or self.options()
