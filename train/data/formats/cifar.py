"""CIFAR-10 and CIFAR-100, from the binary or the Python version, as folder or archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collegium.train.data.archive import Files, open_files
from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders, Sample
from collegium.train.data.plain_pickle import read_plain_pickle
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Version:
    """The published files of one data set; ``label_bytes`` precede each image of the binary version."""

    classes: int
    label_bytes: int
    label_key: str
    train: tuple[str, ...]
    test: str
    folders: tuple[str, ...]
    archives: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return self.archives + self.folders

    @property
    def binary(self) -> bool:
        return self.test.endswith(".bin")


_TEN = tuple(f"data_batch_{index}" for index in range(1, 6))
VERSIONS = {
    "cifar10": (
        _Version(10, 1, "labels", tuple(f"{name}.bin" for name in _TEN), "test_batch.bin",
                 ("cifar-10-batches-bin",), ("cifar-10-binary.tar.gz",)),
        _Version(10, 1, "labels", _TEN, "test_batch", ("cifar-10-batches-py",), ("cifar-10-python.tar.gz",)),
    ),
    "cifar100": (
        _Version(100, 2, "fine_labels", ("train.bin",), "test.bin",
                 ("cifar-100-binary",), ("cifar-100-binary.tar.gz",)),
        _Version(100, 2, "fine_labels", ("train",), "test", ("cifar-100-python",), ("cifar-100-python.tar.gz",)),
    ),
}  # fmt: skip


class Cifar(DataFormat):
    """Either data set, in either version."""

    summary = "CIFAR-10 and CIFAR-100: colour images of 32 × 32, in the binary or the Python version"
    names = tuple(VERSIONS)

    def files(self, name: str) -> tuple[str, ...]:
        """The published archives, and the folders that they unpack to."""
        return tuple(source for version in VERSIONS[name] for source in version.sources)

    def source(self, name: str) -> str:
        """What is in the folders."""
        held = " or ".join(f"{version.train[0]} … {version.test}" for version in VERSIONS[name])
        return f"; archives are as they are published, and a folder is what its archive unpacks to ({held})"

    def sample(self, spec: DataSpec) -> Sample:
        """An image of three channels."""
        return Sample("image", (3, 32, 32))

    def recipe(self, name: str) -> str:
        """That of Littwin et al. 2020."""
        return "ce-cifar"

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """The published splits."""
        assert folders.data is not None
        return load_cifar(spec.name, folders.data)


def load_cifar(name: str, root: Path) -> Arrays:
    """``cifar10`` or ``cifar100`` from the first published version found in ``root``; images ``(samples, 3, 32, 32)``.

    A batch file may hold any number of images. Raises ``DataError`` naming the file that is missing or wrong.
    """
    for version in VERSIONS[name]:
        if any((root / source).exists() for source in version.sources):
            with open_files(root, version.folders, version.archives) as files:
                return _load(files, version).checked(name)
    raise DataError(f"{name} is not in the data folder", f"put {' or '.join(Cifar().files(name))} there")


def _load(files: Files, version: _Version) -> Arrays:
    batches = [_batch(files, file, version) for file in version.train]
    x_test, y_test = _batch(files, version.test, version)
    x_train, y_train = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Arrays(x_train, y_train, x_test, y_test, version.classes, summary={"source": "CIFAR"})


def _batch(files: Files, name: str, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    data = files.read(name)
    if data is None:
        raise DataError(f"the file {name} is missing", "fetch the published archive again")
    return _binary(data, name, version) if version.binary else _python(data, name, version)


def _binary(data: bytes, name: str, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    record = version.label_bytes + PIXELS
    if not data or len(data) % record:
        raise DataError(f"{name} has {len(data)} bytes, no multiple of {record}", "it is truncated: fetch it again")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    # CIFAR-100 stores the coarse label first; the fine one is the last byte before the pixels.
    labels = rows[:, version.label_bytes - 1].astype(np.int64)
    return np.ascontiguousarray(rows[:, version.label_bytes :]).reshape(-1, 3, 32, 32), labels


def _python(data: bytes, name: str, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    batch = read_plain_pickle(data, name)
    return image_batch(batch, name, version.label_key, side=32, first_label=0)


def image_batch(batch: dict, name: str, label_key: str, *, side: int, first_label: int):
    """Images ``(samples, 3, side, side)`` and labels from 0 of one published batch dictionary."""
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * side * side,):
        raise DataError(f"{name}: 'data' is no array of {3 * side * side} bytes an image", "fetch the published file")
    labels = np.asarray(batch.get(label_key, ()))
    if labels.dtype.kind not in "iu" or labels.shape != (len(pixels),):
        raise DataError(f"{name}: '{label_key}' is no list of {len(pixels)} integers", "fetch the published file")
    return pixels.reshape(-1, 3, side, side), labels.astype(np.int64) - first_label
