"""Members of a folder or a tar archive by name, read in memory; nothing is ever extracted to disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from collegium.train.errors import DataError

MAX_MEMBER = 2**31


class Files(Protocol):
    """The files of a data set, in a folder or an archive."""

    def read(self, name: str) -> bytes | None:
        """The bytes of the file with this last path component, or None."""
        ...


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        path = self._folder / name
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_MEMBER:
            raise DataError(f"{name} is larger than {MAX_MEMBER} bytes", "fetch the published file")
        return path.read_bytes()


class _Tar:
    def __init__(self, archive: tarfile.TarFile, name: str) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{name} holds the path {member.name}, which leaves the archive", "do not trust it")
            if member.isfile():
                self._members[path.name] = member

    def read(self, name: str) -> bytes | None:
        member = self._members.get(name)
        if member is None:
            return None
        if member.size > MAX_MEMBER:
            raise DataError(f"{name} is larger than {MAX_MEMBER} bytes", "fetch the published archive")
        stream = self._archive.extractfile(member)
        data = stream.read() if stream else b""
        if len(data) != member.size:
            raise DataError(f"{name} is truncated", "fetch the archive again")
        return data


@contextmanager
def open_files(root: Path, folders: tuple[str, ...], archives: tuple[str, ...]) -> Iterator[Files]:
    """The first of the named folders or archives below ``root`` that exists. Raises ``DataError``."""
    for folder in folders:
        if (root / folder).is_dir():
            yield _Folder(root / folder)
            return
    for archive in archives:
        path = root / archive
        if path.is_file():
            try:
                with tarfile.open(path) as opened:
                    yield _Tar(opened, archive)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise DataError(f"{archive} is no readable tar archive: {error}", "fetch it again") from error
            return
    raise DataError("the data set is not in the data folder", f"put {' or '.join((*archives, *folders))} there")
