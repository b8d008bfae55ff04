"""Checkpoints that a killed run goes on from: whole or absent, never half-written, and never another run's."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

log = logging.getLogger("collegium.train")


class Checkpoints:
    """Named checkpoints in a folder. Without a folder, nothing is kept.

    ``fingerprint`` identifies the training; a checkpoint of another one is not used. Tensors, numbers, strings,
    lists and dictionaries can be kept; reading never unpickles anything else.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def kept(self) -> bool:
        """Whether there is a folder."""
        return self._folder is not None

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Replace the checkpoint ``name`` atomically: written to a second file, flushed to disk, then renamed."""
        if self._folder is None:
            return
        path = self._path(name)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save({"fingerprint": self._fingerprint, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself must survive a crash
        finally:
            os.close(folder)

    def load(self, name: str, device: torch.device | None = None) -> dict[str, Any] | None:
        """The state last saved under ``name`` by this training, its tensors on ``device``, or None.

        A file that is cut off, has other bytes than were written, or is none of torch's counts as none, which the log
        says: training then begins anew.
        """
        if self._folder is None or not self._path(name).is_file():
            return None
        stored = _read(self._path(name), device or torch.device("cpu"))
        if stored is None:
            log.warning("%s is damaged and cannot be resumed from", self._path(name))
            return None
        return stored["state"] if stored["fingerprint"] == self._fingerprint else None

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.checkpoint"


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What ``torch.save`` has written to ``path``; None where it is damaged. Other errors of reading are raised."""
    try:
        return torch.load(path, map_location=device, weights_only=True) if _is_whole(path) else None
    except RuntimeError as error:
        if "PytorchStreamReader" not in str(error):
            raise
        return None


def _is_whole(path: Path) -> bool:
    """Whether every part has its checksum, at which torch does not look."""
    try:
        with ZipFile(path) as file:
            return file.testzip() is None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning of the file, where the directory names one
            raise
        return False
    except Exception:  # of a dozen kinds, by what has become of the directory
        return False
