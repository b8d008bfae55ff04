"""Trainings that have ended, as JSON lines in the files of a folder, one file for each shard.

A row is appended in one write and flushed to the disk. What a killed process left of a row is discarded: its line has
no end.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collegium.train.reproduce.majority.training import key_of

Row = dict[str, Any]


class InUse(Exception):
    """Another process appends to the file of the records."""


class Records:
    """Rows of all files in ``folder``, by what determines them; of rows with one key, the first is kept.

    ``conflicts`` are the keys of rows that found another result than the first.

    New rows go to ``file``, where one is named. Raises ``InUse`` where another process holds it, and ``ValueError``,
    naming file and line, for a line that is no row.
    """

    def __init__(self, folder: Path, file: str | None = None) -> None:
        self._found: dict[str, Row] = {}
        self.conflicts: set[str] = set()
        self._by_unit: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
        self._output: int | None = None
        if file is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._output = _open(folder / file)
        for path in sorted(folder.glob("*.jsonl")):
            for row in read(path):
                self._keep(row)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._found.values())

    def of(self, cell: Any, method: str) -> list[Row]:
        """Rows of one method in one cell."""
        return self._by_unit.get((cell.architecture, cell.optimizer, cell.images, cell.noise, method), [])

    def append(self, row: Row) -> None:
        """Keep a row, here and on the disk."""
        if self._output is None:
            raise RuntimeError("these records were opened to be read")
        line = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        while line:  # a disk that is nearly full takes a part
            line = line[os.write(self._output, line) :]
        os.fsync(self._output)
        self._keep(row)

    def close(self) -> None:
        """Release the file."""
        if self._output is not None:
            os.close(self._output)
            self._output = None

    def _keep(self, row: Row) -> None:
        key = key_of(row)
        if key not in self._found:
            self._found[key] = row
            cell = (row["architecture"], row["optimizer"], row["images"], row["noise"])
            self._by_unit[(*cell, row["method"])].append(row)
        elif _result(self._found[key]) != _result(row):
            self.conflicts.add(key)


def _result(row: Row) -> Row:
    """The row without what a repetition on another machine changes."""
    return {name: value for name, value in row.items() if name not in ("seconds", "versions")}


def read(path: Path) -> Iterator[Row]:
    """The rows of one file. Raises ``ValueError`` for a line that is none; an unfinished last line is passed over."""
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        try:
            row = json.loads(line)
            key_of(row)
            _check(row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}, is no row of a training: {error!r}") from error
        yield row


def _check(row: Row) -> None:
    """Raises ``ValueError`` for a value of another type: it has the key of a row, and counts for no seed."""
    numbers = [row["seed"], row["epochs"], row["images"], row["rate"], row["noise"]]
    whole = all(type(number) is int for number in numbers[:3])
    if not whole or not all(type(number) in (int, float) for number in numbers) or not 0 < row["rate"] < math.inf:
        raise ValueError(f"seed, epochs, images, rate and noise are {numbers}")
    if "failure" in row:
        return
    found = list(row["validation"].values()) if row["tuning"] else [row["accuracy"]]
    if not all(type(number) in (int, float) for numbers in found for number in numbers):
        raise ValueError(f"its result is {found}")


def _open(path: Path) -> int:
    """The file, locked, for appending; an unfinished last line is cut off."""
    output = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(output)
        raise InUse(f"another process writes to {path}: name another shard or folder") from None
    content = path.read_bytes()
    os.ftruncate(output, content.rfind(b"\n") + 1)
    return output
