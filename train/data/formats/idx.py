"""MNIST and its relatives in the IDX format: four files, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders, Sample
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

MAX_ELEMENTS = 2**31
FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class Idx(DataFormat):
    """MNIST, or Fashion-MNIST, in a folder of its name."""

    summary = "MNIST and Fashion-MNIST: grey images of 28 × 28 in the IDX format"
    names = ("mnist", "fashion-mnist")

    def files(self, name: str) -> tuple[str, ...]:
        """One folder with the four published files."""
        return (name,)

    def source(self, name: str) -> str:
        """The four files; Fashion-MNIST is a package of Debian."""
        held = f"; the folder {name} holds {', '.join(FILES.values())}, each plain or as .gz"
        if name != "fashion-mnist":
            return held
        debian = "Debian's package dataset-fashion-mnist has it, in /usr/share/datasets, which then is the data folder"
        return f"{held}; {debian}"

    def sample(self, spec: DataSpec) -> Sample:
        """An image of one channel."""
        return Sample("image", (1, 28, 28))

    def recipe(self, name: str) -> str:
        """That of Littwin et al. 2020."""
        return "ce-mnist"

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """The published splits."""
        assert folders.data is not None
        folder = folders.data / spec.name
        return _load_once(folder, spec.name, tuple(_stamp(_find(folder, file)) for file in FILES.values()))


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes of one IDX file, in the shape that its header gives. Raises ``DataError``."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return _read(file, path.name)
    except (EOFError, gzip.BadGzipFile, struct.error) as error:
        raise DataError(f"{path.name} is truncated or no IDX file", "fetch it again") from error


def _read(file, name: str) -> np.ndarray:
    zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
    if zero != 0 or kind != 0x08 or not 1 <= dimensions <= 4:
        raise DataError(f"{name} does not begin as an IDX file of unsigned bytes", "fetch the published file")
    shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    size = math.prod(shape)
    if size > MAX_ELEMENTS:
        raise DataError(f"{name} claims {size} values", "the header is wrong: fetch the file again")
    data = file.read(size + 1)
    if len(data) != size:
        raise DataError(f"{name} holds {min(len(data), size)} of {size} values", "fetch it again")
    return np.frombuffer(bytearray(data), np.uint8).reshape(shape)  # writable, as torch wants it


def load_mnist(folder: Path, name: str = "mnist") -> Arrays:
    """MNIST, or data of its format, from a folder with the four published files; images of ``(samples, 1, 28, 28)``."""
    arrays = {key: read_idx(_find(folder, name)) for key, name in FILES.items()}
    return Arrays(
        x_train=arrays["x_train"][:, None],
        y_train=arrays["y_train"].astype(np.int64),
        x_test=arrays["x_test"][:, None],
        y_test=arrays["y_test"].astype(np.int64),
        classes=10,
        summary={"source": "IDX"},
    ).checked(name)


@lru_cache(maxsize=1)
def _load_once(folder: Path, name: str, stamps: tuple[tuple[int, int], ...]) -> Arrays:
    """What was read last, for a process that trains on it many times; ``stamps`` change when the files do."""
    return load_mnist(folder, name)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")):
        if candidate.is_file():
            return candidate
    raise DataError(f"{folder.name} has no file {name}", f"put {name} or {name}.gz there")
