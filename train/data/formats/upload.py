"""A user's own data: ``x_train, y_train, x_test, y_test`` in one ``.npz`` or ``.safetensors`` file.

``check_upload`` refuses by arithmetic on the headers what would take too much memory in a training, then reads all
values, a chunk at a time: its own memory does not grow with the file. Nothing here loads torch.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from collegium.counted import counted
from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders
from collegium.train.data.formats.array_file import ArrayFile, Header, converted, open_arrays
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

NAMES = ("x_train", "y_train", "x_test", "y_test")
LABELS = ("y_train", "y_test")
INPUTS = ("x_train", "x_test")
DEFAULT_LIMIT = 8 * 2**30
MAX_CLASSES = 100_000


class Upload(DataFormat):
    """A file that was uploaded and checked."""

    summary = "the user's own arrays in one .npz or .safetensors file"
    layout = "the id of an upload"

    def finds(self, name: str, folders: Folders) -> bool:
        """Whether a file was uploaded that has this id."""
        return _file(name, folders) is not None

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """The arrays of the file."""
        path = _file(spec.name, folders)
        assert path is not None
        return load_upload(path)


def _file(name: str, folders: Folders) -> Path | None:
    if folders.uploads is None:
        return None
    paths = [folders.uploads / f"{name}.{kind}" for kind in ("npz", "safetensors")]
    return next((path for path in paths if path.is_file()), None)


def check_upload(path: Path, *, limit: int = DEFAULT_LIMIT) -> dict[str, Any]:
    """Check everything about the file and describe it.

    Returns ``{format, shape, dtype, classes, train, test}``: the shape of one sample, and samples in each split.
    ``limit`` bounds the bytes that the arrays take when they are loaded: images of bytes as they are, other inputs as
    float32, labels as int64. Raises ``DataError`` naming the array that is wrong.
    """
    with open_arrays(path) as file:
        _check_headers(file.headers, limit)
        classes = _classes(file)
        for name in INPUTS:
            _require_finite(file, name)
        x_train, x_test = (file.headers[name] for name in INPUTS)
        return {
            "format": file.kind,
            "shape": list(x_train.shape[1:]),
            "dtype": str(_loaded_dtype("x_train", x_train)),
            "classes": classes,
            "train": x_train.shape[0],
            "test": x_test.shape[0],
        }


def load_upload(path: Path) -> Arrays:
    """The arrays of an uploaded file: images of bytes stay bytes, other inputs become float32.

    Classes are counted from 0 up to the largest label. Raises ``DataError``.
    """
    with open_arrays(path) as file:
        _check_headers(file.headers, limit=None)
        classes = _classes(file)
        x_train, y_train, x_test, y_test = (file.read(name, _loaded_dtype(name, file.headers[name])) for name in NAMES)
    kind = "image" if x_train.ndim == 4 else "features"
    found = Arrays(x_train, y_train, x_test, y_test, classes, kind, ordered=True, summary={"source": "upload"})
    return found.checked("the file")


def limit_memory(headroom: int) -> None:
    """Bound this process's address space by what it has now and ``headroom`` bytes more, where Linux can."""
    used = Path("/proc/self/statm")
    if used.exists():
        most = int(used.read_text().split()[0]) * resource.getpagesize() + headroom
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _check_headers(headers: dict[str, Header], limit: int | None) -> None:
    missing = [name for name in NAMES if name not in headers]
    if missing:
        raise DataError(f"the array {missing[0]} is missing", f"the file holds {', '.join(NAMES)}")
    extra = sorted(set(headers) - set(NAMES))
    if extra:
        raise DataError(f"the array {extra[0][:80]} is not expected", f"the file holds {', '.join(NAMES)} alone")
    for name in NAMES:
        _check_type(name, headers[name])
    size = sum(header.count * _loaded_dtype(name, header).itemsize for name, header in headers.items())
    if limit is not None and size > limit:
        raise DataError(f"the arrays unpack to {size} bytes in memory", f"at most {limit} bytes are taken")
    for split in ("train", "test"):
        _check_lengths(split, headers[f"x_{split}"], headers[f"y_{split}"])
    train, test = (headers[name].shape[1:] for name in INPUTS)
    if train != test:
        raise DataError(f"x_train has samples of shape {train}, x_test of {test}", "give both splits the same shape")


def _check_type(name: str, header: Header) -> None:
    if header.dtype.kind not in "uif" or header.dtype.itemsize > 8:
        raise DataError(f"{name} has type {header.dtype}", "use integers or floats of at most 64 bits")
    if any(side < 0 for side in header.shape) or len(header.shape) > 4:
        raise DataError(f"{name} has shape {header.shape}", "use at most four dimensions")
    if name in LABELS and (len(header.shape) != 1 or header.dtype.kind not in "ui"):
        raise DataError(f"{name} has shape {header.shape} and type {header.dtype}", "labels are one integer a sample")


def _check_lengths(split: str, x: Header, y: Header) -> None:
    if len(x.shape) < 2:
        raise DataError(f"x_{split} has shape {x.shape}", "samples come first, then at least one feature")
    if 0 in x.shape:
        raise DataError(f"x_{split} is empty", "give at least one sample, and at least one feature to each")
    if y.shape[0] != x.shape[0]:
        raise DataError(
            f"y_{split} has {counted(y.shape[0], 'label')} for {counted(x.shape[0], 'sample')}",
            "give one label to each sample",
        )


def _classes(file: ArrayFile) -> int:
    """One more than the largest label. Raises ``DataError`` for labels that are out of range."""
    largest = 0
    for name in LABELS:
        for chunk in file.chunks(name):
            if int(chunk.min()) < 0 or int(chunk.max()) > np.iinfo(np.int64).max:
                wrong = int(chunk.min()) if int(chunk.min()) < 0 else int(chunk.max())
                raise DataError(f"{name} holds {wrong}", "labels are counted from 0")
            largest = max(largest, int(chunk.max()))
    if largest >= MAX_CLASSES:
        raise DataError(f"the largest label is {largest}", f"labels are counted from 0 and below {MAX_CLASSES}")
    if largest < 1:
        raise DataError("all labels are 0", "a classification needs at least two classes")
    return largest + 1


def _require_finite(file: ArrayFile, name: str) -> None:
    for chunk in file.chunks(name):
        if chunk.dtype.kind == "f" and not np.isfinite(converted(chunk, np.float32)).all():
            raise DataError(f"{name} holds NaN or infinite values", "replace them before uploading")


def _loaded_dtype(name: str, header: Header) -> np.dtype:
    """The type of one array in memory."""
    if name in LABELS:
        return np.dtype(np.int64)
    return np.dtype(np.uint8 if header.dtype == np.uint8 and len(header.shape) == 4 else np.float32)
