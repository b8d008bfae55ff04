"""What is known of the named data sets before any is read; nothing here loads torch."""

from __future__ import annotations

from pathlib import Path

from collegium.train.data.formats.cifar import VERSIONS
from collegium.train.spec.data import DataSpec

#: The shape of one sample of each named data set whose samples are arrays; the teacher's follows from its spec.
SHAPES: dict[str, tuple[int, ...]] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "imagenet32": (3, 32, 32),
    "imagenet64": (3, 64, 64),
}
#: Where the published ones lie below the data folder; any one of these is enough.
PLACES: dict[str, tuple[str, ...]] = {
    "mnist": ("mnist",),
    "imagenet32": ("imagenet32",),
    "imagenet64": ("imagenet64",),
} | {
    name: tuple(place for version in versions for place in version.archives + version.folders)
    for name, versions in VERSIONS.items()
}
TEACHER, SEQUENCES = "synthetic", "synthetic-text"
NAMES = frozenset({*SHAPES, TEACHER, SEQUENCES})


def is_missing(name: str, data_dir: Path) -> bool:
    """Whether ``name`` is a published data set of which nothing lies in ``data_dir``."""
    return name in PLACES and not any((data_dir / place).exists() for place in PLACES[name])


def known_shape(data: DataSpec) -> tuple[int, ...] | None:
    """The shape of one sample, or None for sequences and for data whose shape its name does not tell."""
    return (data.synthetic.inputs,) if data.name == TEACHER else SHAPES.get(data.name)
