"""Arrays in an ``.npz`` or ``.safetensors`` file, read in chunks: headers first, and nothing is ever unpickled.

Memory does not grow with the file. What a header claims is compared with the size of the file before a value is read,
and only as many bytes are unpacked as the header announces, a chunk at a time.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from collegium.train.errors import DataError

CHUNK = 1 << 20  # bytes
MAX_NPY_HEADER = 1 << 16
MAX_SAFETENSORS_HEADER = 1 << 20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SAFETENSORS = {
    "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "I32": np.int32, "U32": np.uint32,
    "I64": np.int64, "U64": np.uint64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What precedes the values of one array; ``start`` is where they begin, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


class ArrayFile(ABC):
    """An open file of named arrays."""

    kind: str
    headers: dict[str, Header]

    @abstractmethod
    def _values(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A stream that begins with the values of one array."""

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The values of one array in the order in which they are stored, as flat arrays of at most ``CHUNK`` bytes.

        Raises ``DataError`` where the file is truncated or damaged.
        """
        header = self.headers[name]
        left = header.count * header.dtype.itemsize
        damaged = reading("the arrays cannot be read", "the file is truncated or damaged: upload it again")
        with damaged, self._values(name) as stream:
            while left:
                piece = _read(stream, min(left, CHUNK))
                left -= len(piece)
                yield np.frombuffer(piece, header.dtype)

    def read(self, name: str, dtype: Any) -> np.ndarray:
        """One array as ``dtype``. Values that it cannot hold become infinite. Raises ``DataError``."""
        header, filled = self.headers[name], 0
        flat = np.empty(header.count, dtype)
        for chunk in self.chunks(name):
            flat[filled : filled + len(chunk)] = converted(chunk, dtype)
            filled += len(chunk)
        return np.ascontiguousarray(flat.reshape(header.shape, order="F" if header.fortran else "C"))


def converted(values: np.ndarray, dtype: Any) -> np.ndarray:
    """``values`` as ``dtype``, infinite where they are too large for it."""
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """The file's arrays, once their headers have been read. Raises ``DataError``."""
    with path.open("rb") as file:
        start = file.read(9)
        file.seek(0)
        if start[:4] == b"PK\x03\x04":
            with reading("the archive cannot be read", "upload it again"):
                opened: ArrayFile = _Npz(file)
        elif len(start) == 9 and start[8:9] == b"{":
            with reading("the header cannot be read", "write it with safetensors, in NumPy's types"):
                opened = _Safetensors(file)
        else:
            raise DataError("the file is neither .npz nor .safetensors", "save the arrays in one of these formats")
        yield opened


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Everything that a damaged or crafted file can raise, as a ``DataError``."""
    try:
        yield
    except DataError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, EOFError, RuntimeError,
        ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError,
    ) as error:  # fmt: skip
        raise DataError(f"{what}: {error}", remedy) from error


class _Npz(ArrayFile):
    kind = "npz"

    def __init__(self, file: IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file)
        self.headers = {}
        for info in self._archive.infolist():
            name = _member(info)
            if name in self.headers:
                raise DataError(f"the archive holds {info.filename!r} twice", "write it with numpy.savez")
            self.headers[name] = self._header(info)

    def _header(self, info: zipfile.ZipInfo) -> Header:
        with self._archive.open(info) as member:
            header = _npy_header(member, info.filename)
        if header.start + header.count * header.dtype.itemsize != info.file_size:
            raise DataError(f"{info.filename}: header and size disagree", "write it with numpy.savez")
        return header

    @contextmanager
    def _values(self, name: str) -> Iterator[IO[bytes]]:
        with self._archive.open(f"{name}.npy") as member:
            _read(member, self.headers[name].start)
            yield member


def _member(info: zipfile.ZipInfo) -> str:
    if "/" in info.filename or "\\" in info.filename or not info.filename.endswith(".npy"):
        raise DataError(f"the archive holds {info.filename[:80]!r}", "write it with numpy.savez")
    if info.compress_type not in _COMPRESSIONS:
        raise DataError(f"{info.filename[:80]} is compressed in an unusual way", "write it with numpy.savez_compressed")
    return info.filename.removesuffix(".npy")


def _npy_header(member: IO[bytes], name: str) -> Header:
    """The header of a ``.npy`` file; its length is checked first, since NumPy reads it whole whatever that is."""
    try:
        version = npy.read_magic(member)
        prefix = _read(member, 2 if version == (1, 0) else 4)
        length = int.from_bytes(prefix, "little")
        if length > MAX_NPY_HEADER:
            raise ValueError(f"its header has {length} bytes")
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(io.BytesIO(prefix + _read(member, length)))
    except ValueError as error:
        raise DataError(f"{name} is no NumPy array: {error}", "write it with numpy.savez") from error
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects", "save plain numbers: nothing is unpickled")
    return Header(shape, dtype, fortran, npy.MAGIC_LEN + len(prefix) + length)


class _Safetensors(ArrayFile):
    kind = "safetensors"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(_read(file, 8), "little")
        if length > min(size - 8, MAX_SAFETENSORS_HEADER):
            raise ValueError(f"it would have {length} bytes")
        table = json.loads(_read(file, length))
        table.pop("__metadata__", None)
        self.headers = {name: _safetensors_header(entry, 8 + length, size) for name, entry in table.items()}

    @contextmanager
    def _values(self, name: str) -> Iterator[IO[bytes]]:
        self._file.seek(self.headers[name].start)
        yield self._file


def _safetensors_header(entry: dict[str, Any], data: int, size: int) -> Header:
    sides = [*entry["shape"], *entry["data_offsets"]]
    if not all(type(side) is int and side >= 0 for side in sides):
        raise ValueError("a size or an offset is no whole number")
    begin, end = entry["data_offsets"]
    header = Header(tuple(entry["shape"]), np.dtype(_SAFETENSORS[entry["dtype"]]), False, data + begin)
    if end - begin != header.count * header.dtype.itemsize or data + end > size:
        raise ValueError("header and size disagree")
    return header


def _read(stream: IO[bytes], count: int) -> bytes:
    piece = stream.read(count)
    if len(piece) != count:
        raise EOFError(f"{count - len(piece)} bytes are missing")
    return piece
