"""A user's own data: ``x_train, y_train, x_test, y_test`` in one ``.npz`` or ``.safetensors`` file.

``check_upload`` looks at headers before it reads a single array, so that a file that unpacks to more than its limit,
or that would need unpickling, is refused without either happening. Nothing here loads torch.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

NAMES = ("x_train", "y_train", "x_test", "y_test")
DEFAULT_LIMIT = 8 * 2**30
MAX_CLASSES = 100_000
_SAFETENSORS = {
    "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "I32": np.int32, "U32": np.uint32,
    "I64": np.int64, "U64": np.uint64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
_Header = tuple[tuple[int, ...], np.dtype]


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
    ``limit`` bounds the unpacked bytes. Raises ``DataError`` naming the array that is wrong.
    """
    kind = _format(path)
    headers = _npz_headers(path) if kind == "npz" else _safetensors_headers(path)
    _check_headers(headers, limit)
    arrays = load_upload(path)
    return {
        "format": kind,
        "shape": list(arrays.x_train.shape[1:]),
        "dtype": str(arrays.x_train.dtype),
        "classes": arrays.classes,
        "train": len(arrays.x_train),
        "test": len(arrays.x_test),
    }


def load_upload(path: Path) -> Arrays:
    """The arrays of an uploaded file: images of bytes stay bytes, everything else becomes float32.

    Classes are counted from 0 up to the largest label. Raises ``DataError``.
    """
    arrays = _read_npz(path) if _format(path) == "npz" else _read_safetensors(path)
    labels = {name: _labels(arrays[name], name) for name in ("y_train", "y_test")}
    if labels["y_train"].size == 0 or labels["y_test"].size == 0:
        raise DataError("a split has no labels", "give at least one sample to each split")
    classes = int(max(labels["y_train"].max(), labels["y_test"].max())) + 1
    if classes > MAX_CLASSES:
        raise DataError(f"the largest label is {classes - 1}", f"labels are counted from 0 and below {MAX_CLASSES}")
    if classes < 2:
        raise DataError("all labels are 0", "a classification needs at least two classes")
    x_train, x_test = _inputs(arrays["x_train"]), _inputs(arrays["x_test"])
    kind = "image" if x_train.ndim == 4 else "features"
    made = Arrays(x_train, labels["y_train"], x_test, labels["y_test"], classes, kind, summary={"source": "upload"})
    return made.checked("the file")


def _format(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(9)
    if start[:4] == b"PK\x03\x04":
        return "npz"
    if len(start) == 9 and start[8:9] == b"{":
        return "safetensors"
    raise DataError("the file is neither .npz nor .safetensors", f"save {', '.join(NAMES)} in one of these formats")


def _check_headers(headers: dict[str, _Header], limit: int) -> None:
    missing = [name for name in NAMES if name not in headers]
    if missing:
        raise DataError(f"the array {missing[0]} is missing", f"the file holds {', '.join(NAMES)}")
    extra = sorted(set(headers) - set(NAMES))
    if extra:
        raise DataError(f"the array {extra[0][:80]} is not expected", f"the file holds {', '.join(NAMES)} alone")
    for name, (shape, dtype) in headers.items():
        if dtype.kind not in "uif" or dtype.itemsize > 8:
            raise DataError(f"{name} has type {dtype}", "use integers or floats of at most 64 bits")
        if any(side < 0 for side in shape) or len(shape) > 4:
            raise DataError(f"{name} has shape {shape}", "use at most four dimensions")
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
    if size > limit:
        raise DataError(f"the arrays unpack to {size} bytes", f"at most {limit} bytes are taken")


def _npz_headers(path: Path) -> dict[str, _Header]:
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if "/" in info.filename or "\\" in info.filename or not info.filename.endswith(".npy"):
                    raise DataError(f"the archive holds {info.filename[:80]!r}", "write it with numpy.savez")
                with archive.open(info) as member:
                    header = _npy_header(member, info.filename)
                    expected = math.prod(header[0]) * header[1].itemsize + member.tell()
                if expected != info.file_size:
                    raise DataError(f"{info.filename}: header and size disagree", "write it with numpy.savez")
                headers[info.filename.removesuffix(".npy")] = header
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"the archive cannot be read: {error}", "upload it again") from error
    return headers


def _npy_header(member, name: str) -> _Header:
    try:
        version = npy.read_magic(member)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = reader(member)
    except ValueError as error:
        raise DataError(f"{name} is no NumPy array: {error}", "write it with numpy.savez") from error
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects", "save plain numbers: nothing is unpickled")
    return shape, dtype


def _safetensors_headers(path: Path) -> dict[str, _Header]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size, 10_000_000):
                raise ValueError("the header is longer than the file")
            table = json.loads(file.read(length))
        table.pop("__metadata__", None)
        headers = {
            name: (tuple(int(side) for side in entry["shape"]), np.dtype(_SAFETENSORS[entry["dtype"]]))
            for name, entry in table.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"the header cannot be read: {error}", "write it with safetensors, in NumPy's types") from error
    return headers


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in NAMES}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"the arrays cannot be read: {error}", "the file is truncated or damaged: upload it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: array for name, array in load_file(path).items() if name in NAMES}
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(
            f"the arrays cannot be read: {error}", "the file is truncated or damaged: upload it again"
        ) from error


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise DataError(f"{name} has shape {array.shape} and type {array.dtype}", "labels are one integer a sample")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{name} holds {int(array.max())}", "labels are counted from 0")
    return array.astype(np.int64)


def _inputs(array: np.ndarray) -> np.ndarray:
    is_image = array.dtype == np.uint8 and array.ndim == 4
    return array if is_image else array.astype(np.float32)
