"""The bytes of data sets: ``FOLDER/SHA256.KIND``, one file for each content, whatever its name at upload.

An upload grows in ``FOLDER/uploads/ID`` until it is finished. Its length there is the offset at which a broken one
goes on. The folder is shared by the API and the workers, as the artifacts' folder is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from collegium.jobs.errors import DatasetNotFound, HashMismatch, InvalidName, OffsetMismatch, TooLarge, UploadNotFound
from collegium.jobs.record import Dataset
from collegium.jobs.transactions.creation import new_id
from collegium.jobs.transactions.datasets import Datasets

DatasetKind = Literal["npz", "safetensors"]
KINDS: tuple[DatasetKind, ...] = get_args(DatasetKind)
UPLOAD_ID = re.compile(r"[a-z2-7]{16}")
NAME_LIMIT = 255
CHUNK = 1 << 20


@dataclass(frozen=True)
class Upload:
    """An upload under way; it continues at byte ``offset``."""

    id: str
    name: str
    kind: DatasetKind
    offset: int


class DatasetStore:
    """Uploads, and the data sets they become. ``rows`` is the job store; ``limit`` is in bytes, per data set."""

    def __init__(self, folder: str | Path, rows: Datasets, *, limit: int) -> None:
        self.folder = Path(folder).absolute()
        self.limit = limit
        self._rows = rows

    def begin(self, name: str, kind: DatasetKind) -> Upload:
        """An empty upload. Raises InvalidName, ValueError for another kind."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of data set; one of {', '.join(KINDS)}")
        if not 1 <= len(name) <= NAME_LIMIT or not name.isprintable():
            raise InvalidName(f"a data set's name has 1 to {NAME_LIMIT} printable characters")
        upload_id = new_id()
        place = self._upload_folder(upload_id)
        place.mkdir(parents=True)
        (place / "about.json").write_text(json.dumps({"name": name, "kind": kind}), "ascii")
        (place / f"data.{kind}").touch()
        return Upload(upload_id, name, kind, 0)

    def get_upload(self, upload_id: str) -> Upload:
        """How far an upload has come. Raises UploadNotFound."""
        try:
            about = json.loads((self._upload_folder(upload_id) / "about.json").read_text("ascii"))
            offset = (self._upload_folder(upload_id) / f"data.{about['kind']}").stat().st_size
        except FileNotFoundError:
            raise UploadNotFound(upload_id) from None
        return Upload(upload_id, about["name"], about["kind"], offset)

    def append(self, upload_id: str, offset: int, chunks: bytes | Iterable[bytes]) -> Upload:
        """Write on at ``offset``, which must be where the upload ends. What arrived before a break stays.

        Raises UploadNotFound, OffsetMismatch, and TooLarge (nothing beyond the limit is written).
        """
        with self._locked(upload_id) as (upload, file):
            if offset != upload.offset:
                raise OffsetMismatch(upload_id, upload.offset, offset)
            try:
                for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
                    if offset + len(chunk) > self.limit:
                        raise TooLarge(self.limit)
                    file.write(chunk)
                    offset += len(chunk)
            finally:
                file.flush()
                os.fsync(file.fileno())
        return Upload(upload.id, upload.name, upload.kind, offset)

    def finish(
        self,
        upload_id: str,
        validate: Callable[[Path], Mapping[str, Any]],
        *,
        sha256: str | None = None,
    ) -> tuple[Dataset, bool]:
        """Make a data set of an upload, and whether it is new.

        ``sha256`` is what the sender announced. ``validate`` reads the file and returns its summary, or raises, which
        passes through. A wrong hash and bad data end the upload; where the database is unavailable it stays, and
        can be finished later. Raises UploadNotFound, HashMismatch.
        """
        place = self._upload_folder(upload_id)
        with self._locked(upload_id) as (upload, file):
            path = Path(file.name)
            with ExitStack() as bad_data:
                bad_data.callback(shutil.rmtree, place, ignore_errors=True)
                found = _hash(path)
                if sha256 is not None and sha256.lower() != found:
                    raise HashMismatch(sha256, found)
                summary = dict(validate(path))
                bad_data.pop_all()
            dataset, new = self._publish(upload, path, found, summary)
            shutil.rmtree(place, ignore_errors=True)
        return dataset, new

    def _publish(self, upload: Upload, path: Path, dataset_id: str, summary: Mapping[str, Any]) -> tuple[Dataset, bool]:
        """The file first, then the row; back again if there will be no row."""
        target = self._file(dataset_id, upload.kind)
        with self._publishing(), ExitStack() as undo:
            if not target.exists():
                os.replace(path, target)
                _sync(self.folder)
                undo.callback(os.replace, target, path)
            published = self._rows.add_dataset(
                dataset_id, name=upload.name, bytes=upload.offset, kind=upload.kind, summary=summary
            )
            undo.pop_all()
        return published

    def abandon(self, upload_id: str) -> None:
        """Remove an upload. Raises UploadNotFound."""
        with self._locked(upload_id):
            shutil.rmtree(self._upload_folder(upload_id), ignore_errors=True)

    def purge(self, older_than_s: float) -> int:
        """Remove uploads that have not changed for this long; how many."""
        oldest, purged = time.time() - older_than_s, 0
        for place in (self.folder / "uploads").glob("*"):
            with suppress(FileNotFoundError):  # finished meanwhile
                if max(path.stat().st_mtime for path in (place, *place.iterdir())) < oldest:
                    shutil.rmtree(place)
                    purged += 1
        return purged

    def path(self, dataset_id: str) -> Path:
        """Where the bytes are. Raises DatasetNotFound."""
        dataset = self._rows.get_dataset(dataset_id)
        path = self._file(dataset.id, dataset.kind)
        if not path.is_file():
            raise DatasetNotFound(dataset_id)
        return path

    def delete(self, dataset_id: str) -> None:
        """Remove a data set and its bytes; a training that still waits for it will fail.

        Raises DatasetNotFound.
        """
        with self._publishing():
            dataset = self._rows.get_dataset(dataset_id)
            self._rows.delete_dataset(dataset_id)
            self._file(dataset.id, dataset.kind).unlink(missing_ok=True)

    def _file(self, dataset_id: str, kind: str) -> Path:
        return self.folder / f"{dataset_id}.{kind}"

    def _upload_folder(self, upload_id: str) -> Path:
        if not UPLOAD_ID.fullmatch(upload_id):
            raise UploadNotFound(upload_id)
        return self.folder / "uploads" / upload_id

    @contextmanager
    def _locked(self, upload_id: str) -> Iterator[tuple[Upload, IO[bytes]]]:
        """The upload, locked against other processes and threads, with its file open at the end."""
        upload = self.get_upload(upload_id)
        try:
            # Not "ab", which would make a new file where another process has just taken this one away.
            file = (self._upload_folder(upload_id) / f"data.{upload.kind}").open("r+b")
        except FileNotFoundError:
            raise UploadNotFound(upload_id) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The previous holder of the lock may have appended to it, or made a data set of it.
            upload = self.get_upload(upload_id)
            file.seek(upload.offset)
            yield upload, file

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """One at a time puts files in their final place or takes them away, so that rows and files agree."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
