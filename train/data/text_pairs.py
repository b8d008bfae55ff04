"""Labelled text as GLUE publishes it: tab-separated with a header, or one JSON object a line."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from collegium.train.data.problem import DataProblem

MAX_ROWS = 10_000_000
SPLITS = {"train": ("train",), "test": ("dev", "dev_matched", "validation", "test")}


@dataclass(frozen=True)
class TextRows:
    """One split: ``texts`` has one tuple of input columns for each row, ``targets`` the label of each, as text."""

    texts: list[tuple[str, ...]]
    targets: list[str]


def load_text(folder: Path, inputs: tuple[str, ...] | None, target: str | None) -> tuple[TextRows, TextRows]:
    """Training and test rows from ``train`` and ``dev``/``validation``/``test`` files (``.tsv`` or ``.jsonl``).

    Without column names, the target is ``label``, and the inputs ``sentence`` or ``sentence1`` and ``sentence2`` (or
    ``question``/``premise`` and the like). Raises ``DataProblem`` naming the file, the line and the column.
    """
    return _split(folder, "train", inputs, target), _split(folder, "test", inputs, target)


def _split(folder: Path, split: str, inputs: tuple[str, ...] | None, target: str | None) -> TextRows:
    names = [f"{stem}{suffix}" for stem in SPLITS[split] for suffix in (".tsv", ".jsonl")]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise DataProblem(f"{folder.name} has no {split} split", f"put one of {', '.join(names)} there")
    rows = _read_tsv(path) if path.suffix == ".tsv" else _read_jsonl(path)
    if not rows:
        raise DataProblem(f"{path.name} has no rows", "give at least one")
    columns = inputs or _guess(rows[0], path)
    label = target or "label"
    for column in (*columns, label):
        if column not in rows[0]:
            raise DataProblem(f"{path.name} has no column '{column}'", f"its columns are {', '.join(rows[0])}")
    return TextRows([tuple(row[column] for column in columns) for row in rows], [row[label] for row in rows])


_KNOWN = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
    ("premise", "hypothesis"), ("sentence",), ("text",), ("input",),
)  # fmt: skip


def _guess(row: dict[str, str], path: Path) -> tuple[str, ...]:
    for columns in _KNOWN:
        if all(column in row for column in columns):
            return columns
    raise DataProblem(
        f"{path.name}: no input column is recognised", f"name some of {', '.join(row)} in data.text.inputs"
    )


def _read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise DataProblem(
                    f"{path.name}, line {reader.line_num}: not as many fields as the header has", "mend that line"
                )
            rows.append(row)
            _bound(len(rows), path)
        return rows


def _read_jsonl(path: Path) -> list[dict[str, str]]:
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataProblem(f"{path.name}, line {number}: {error}", "give one JSON object a line") from error
            if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
                raise DataProblem(
                    f"{path.name}, line {number}: not an object with the first line's keys",
                    "give all lines the same keys",
                )
            rows.append({key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()})
            _bound(len(rows), path)
    return rows


def _bound(rows: int, path: Path) -> None:
    if rows > MAX_ROWS:
        raise DataProblem(f"{path.name} has more than {MAX_ROWS} rows", "split it")
