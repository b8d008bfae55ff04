"""The files of jobs, in a folder or an object store.

An attempt writes into its own place, ``JOB/ATTEMPT/NAME``, so that a superseded one overwrites nothing. A file
becomes an artifact of its job with the transaction that ends the attempt; until then it has no row and cannot be found.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from collegium.jobs.errors import ArtifactNotFound, InvalidName
from collegium.jobs.record import Artifact

CHUNK = 1 << 20
NAME_LIMIT = 255
SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

# Not the operating system's table, which differs from machine to machine.
MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


def media_type_of(name: str) -> str:
    """By the name's ending; ``application/octet-stream`` for any other ending."""
    return MEDIA_TYPES.get(Path(name).suffix.lower(), "application/octet-stream")


def check_name(name: str) -> str:
    """The name, if it is one or several plain segments with ``/`` between. Raises InvalidName.

    A segment begins with an ASCII letter, a digit or ``_`` and goes on with those, ``.`` and ``-``; so no name leaves
    its folder or hides in it.
    """
    if len(name) > NAME_LIMIT or not all(SEGMENT.fullmatch(segment) for segment in name.split("/")):
        raise InvalidName(f"{name[:NAME_LIMIT]!r} cannot be the name of an artifact")
    return name


class RangeReader:
    """Bytes ``start`` to ``end`` (exclusive) of a stored file: read it, iterate over its chunks, close it."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file = file
        self._left = end - start
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, all that are left if it is negative; empty at the end."""
        want = self._left if size < 0 else min(size, self._left)
        data = self._file.read(want) if want else b""
        self._left -= len(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK):
            yield chunk

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> RangeReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ArtifactStore:
    """Files under one URL that fsspec supports: ``file:///FOLDER``, a plain path, ``s3://BUCKET/PREFIX``, ``memory://``.

    The URL comes from the settings, never from a user; a location comes from the store's own rows.
    """

    def __init__(self, url: str, **options: Any) -> None:
        # Another process writes what this one reads, so that listings are not cached.
        self._fs, root = fsspec.url_to_fs(url, use_listings_cache=False, **options)
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def ping(self) -> None:
        """Check that the store can be reached, and for a folder that it can be written. Raises OSError."""
        if self._local:
            os.makedirs(self._root, exist_ok=True)
            if not os.access(self._root, os.W_OK | os.X_OK):
                raise PermissionError(f"the artifact folder {self._root} cannot be written")
        else:
            self._fs.exists(self._root)

    def put_file(
        self, job_id: str, attempt: int, name: str, path: str | Path, media_type: str | None = None
    ) -> Artifact:
        """Copy a finished file into the attempt's place, hashing it on the way; durable when this returns.

        Raises InvalidName, ValueError when the path is not a regular file (a link is none), OSError.
        """
        location = f"{check_name(job_id)}/{attempt}/{check_name(name)}"
        target = f"{self._root}/{location}"
        folder, _, last = target.rpartition("/")
        digest, size = hashlib.sha256(), 0
        self._fs.makedirs(folder, exist_ok=True)
        # Under a name that no artifact has until it is whole; an object store shows nothing before the end anyway.
        written = f"{folder}/.{last}" if self._local else target
        with _open_regular(path) as source, self._fs.open(written, "wb") as sink:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                sink.write(chunk)
            if self._local:
                sink.flush()
                os.fsync(sink.fileno())
        if self._local:
            os.replace(written, target)
            self._sync_folders(location)
        return Artifact(name, size, digest.hexdigest(), media_type or media_type_of(name), location)

    def _sync_folders(self, location: str) -> None:
        """A file is durable when the folders on the way to it are."""
        folder = Path(self._root, location).parent
        while True:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if folder == Path(self._root):
                return
            folder = folder.parent

    def open(self, location: str, start: int = 0, end: int | None = None) -> RangeReader:
        """Bytes ``start`` to ``end`` (exclusive; the file's end if None, or if it lies beyond).

        Raises ArtifactNotFound, ValueError for a range that begins behind its end or behind the file's.
        """
        path = f"{self._root}/{check_name(location)}"
        try:
            size = self._fs.info(path)["size"]
            file = self._fs.open(path, "rb")
        except FileNotFoundError:
            raise ArtifactNotFound(location) from None
        stop = size if end is None else min(end, size)
        if not 0 <= start <= stop:
            file.close()
            raise ValueError(f"bytes {start} to {stop} are no range of a file of {size}")
        return RangeReader(file, start, stop)

    def delete_attempt(self, job_id: str, attempt: int) -> None:
        """Remove what one attempt has left, if anything; a superseded one, for example."""
        folder = f"{self._root}/{check_name(job_id)}/{attempt}"
        if self._fs.exists(folder):
            self._fs.rm(folder, recursive=True)


def _open_regular(path: str | Path) -> IO[bytes]:
    """Open for reading what is a file itself: a link would let a job publish what it merely points at."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if Path(path).is_symlink():
            raise ValueError(f"{Path(path).name} is a link, not a file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{Path(path).name} is not a regular file")
    return os.fdopen(descriptor, "rb")
