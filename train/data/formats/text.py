"""Text files as tokens: by a tokenizer from the data folder, or byte by byte where there is none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from collegium.search.fields import Strict
from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders, Sample
from collegium.train.errors import DataError, MissingExtra
from collegium.train.spec.architecture import Key

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

PAD, END, BYTES_FROM = 0, 1, 3
BYTE_VOCABULARY = 256 + BYTES_FROM
IGNORED = -100

Encode = Callable[[str, int], list[int]]
"""Text and a maximal length → token ids, the end token included."""

MAX_ROWS = 10_000_000
SPLITS = {"train": ("train",), "test": ("dev", "dev_matched", "validation", "test")}


class TextSpec(Strict):
    """Columns of a labelled text file and the lengths, in tokens, to which texts are cut.

    ``labels`` says what the target column is: a text to be written, or the name of a class. ``tokenizer`` names a
    pretrained folder inside the data folder; without it, tokens are bytes.
    """

    inputs: Annotated[tuple[Key, ...], Field(min_length=1, max_length=2, strict=False)] | None = None
    target: Key | None = None
    input_length: Annotated[int, Field(ge=2, le=4096)] = 128
    target_length: Annotated[int, Field(ge=2, le=4096)] = 16
    labels: Literal["sequence", "classes"] = "sequence"
    tokenizer: Key | None = None


class TextFolder(DataFormat):
    """Labelled text in a folder of the data folder."""

    summary = "labelled text: rows of a .tsv or .jsonl file for each split"
    layout = "a folder with train.tsv and dev.tsv (or .jsonl) inside the data folder"
    options = TextSpec
    options_name = "text"

    def finds(self, name: str, folders: Folders) -> bool:
        """Whether there is a folder of this name with a training file."""
        return folders.data is not None and _file(folders.data / name, "train") is not None

    def sample(self, spec: DataSpec) -> Sample:
        """As many tokens as the options say; of a tokenizer's vocabulary no bound is known."""
        chosen: TextSpec = self.options_of(spec)
        vocabulary = BYTE_VOCABULARY if chosen.tokenizer is None else None
        return Sample("tokens", (chosen.input_length,), vocabulary, rewritten=chosen.labels == "sequence")

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """The rows as tokens."""
        assert folders.data is not None
        return load_text_arrays(self.options_of(spec), folders.data / spec.name, folders.data)


def load_text_arrays(spec: TextSpec, folder: Path, data_dir: Path) -> Arrays:
    """Tokens ``(samples, input_length)`` and their labels from a folder of labelled text.

    With ``labels: sequence`` the label is the target's text, ``(samples, target_length)`` with −100 after its end;
    with ``classes`` it is the index of the target among the sorted targets of the training split. Inputs are padded
    with 0; the tokenizer's padding and its token 0 are exchanged in them. Raises ``DataError``.
    """
    train, test = load_text(folder, spec.inputs, spec.target)
    encode, vocabulary, padding = _encoder(spec, data_dir)
    if spec.labels == "classes":
        names = sorted(set(train.targets))
        y_train, y_test = (_classes(rows, names) for rows in (train, test))
        if len(names) < 2:
            raise DataError(f"all training rows have the label {names[0][:80]!r}", "give rows of two classes at least")
    else:
        names = []
        y_train, y_test = (_padded(rows.targets, encode, spec.target_length, IGNORED) for rows in (train, test))
    return Arrays(
        _exchanged(_padded(_joined(train), encode, spec.input_length, padding), padding),
        y_train,
        _exchanged(_padded(_joined(test), encode, spec.input_length, padding), padding),
        y_test,
        len(names),
        kind="tokens",
        vocabulary=vocabulary,
        padding=padding,
        ordered=True,
        summary={"source": "text", "tokenizer": spec.tokenizer or "bytes", "padding": padding, "labels": names},
    )


def _joined(rows: TextRows) -> list[str]:
    return [" \n ".join(columns) for columns in rows.texts]


def _encoder(spec: TextSpec, data_dir: Path) -> tuple[Encode, int, int]:
    """How texts become tokens, how many tokens there are, and which one is padding."""
    if spec.tokenizer is None:
        return _bytes, BYTE_VOCABULARY, PAD
    folder = data_dir / spec.tokenizer
    if not folder.is_dir():
        raise DataError(f"the data folder has no tokenizer {spec.tokenizer!r}", "put its pretrained folder there")
    require_tokenizers()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{spec.tokenizer} holds no tokenizer: {error}", "save one with save_pretrained") from error

    def encode(text: str, length: int) -> list[int]:
        return tokenizer(text, truncation=True, max_length=length)["input_ids"]

    return encode, len(tokenizer), PAD if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def require_tokenizers() -> None:
    """Raise ``MissingExtra`` where the library that reads tokenizers is not installed; nothing is imported."""
    if find_spec("transformers") is None:
        raise MissingExtra("a tokenizer needs transformers", "install it with: pip install 'collegium[transformers]'")


def _bytes(text: str, length: int) -> list[int]:
    return [byte + BYTES_FROM for byte in text.encode()[: length - 1]] + [END]


def _padded(texts: list[str], encode: Encode, length: int, filler: int) -> np.ndarray:
    table = np.full((len(texts), length), filler, np.int64)
    for row, text in zip(table, texts, strict=True):
        tokens = encode(text, length)
        row[: len(tokens)] = tokens
    return table


def _exchanged(table: np.ndarray, padding: int) -> np.ndarray:
    """``table`` with ``padding`` and 0 in each other's place."""
    return np.where(table == padding, PAD, np.where(table == PAD, padding, table))


def _classes(rows: TextRows, names: list[str]) -> np.ndarray:
    index = {name: position for position, name in enumerate(names)}
    unknown = next((target for target in rows.targets if target not in index), None)
    if unknown is not None:
        raise DataError(f"the test split has the label {unknown[:80]!r}, and no training row", "correct the labels")
    return np.array([index[target] for target in rows.targets], np.int64)


@dataclass(frozen=True)
class TextRows:
    """One split: ``texts`` has one tuple of input columns for each row, ``targets`` the label of each, as text."""

    texts: list[tuple[str, ...]]
    targets: list[str]


def load_text(folder: Path, inputs: tuple[str, ...] | None, target: str | None) -> tuple[TextRows, TextRows]:
    """Training and test rows from ``train`` and ``dev``/``validation``/``test`` files (``.tsv`` or ``.jsonl``).

    Without column names, the target is ``label``, and the inputs ``sentence`` or ``sentence1`` and ``sentence2`` (or
    ``question``/``premise`` and the like). Raises ``DataError`` naming the file, the line and the column.
    """
    return _split(folder, "train", inputs, target), _split(folder, "test", inputs, target)


def _split(folder: Path, split: str, inputs: tuple[str, ...] | None, target: str | None) -> TextRows:
    path = _file(folder, split)
    if path is None:
        raise DataError(f"{folder.name} has no {split} split", f"put one of {', '.join(_names(split))} there")
    rows = _read_tsv(path) if path.suffix == ".tsv" else _read_jsonl(path)
    if not rows:
        raise DataError(f"{path.name} has no rows", "give at least one")
    columns = inputs or _guess(rows[0], path)
    label = target or "label"
    for column in (*columns, label):
        if column not in rows[0]:
            raise DataError(f"{path.name} has no column '{column}'", f"its columns are {', '.join(rows[0])}")
    return TextRows([tuple(row[column] for column in columns) for row in rows], [row[label] for row in rows])


def _names(split: str) -> list[str]:
    return [f"{stem}{suffix}" for stem in SPLITS[split] for suffix in (".tsv", ".jsonl")]


def _file(folder: Path, split: str) -> Path | None:
    return next((folder / name for name in _names(split) if (folder / name).is_file()), None)


_KNOWN = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
    ("premise", "hypothesis"), ("sentence",), ("text",), ("input",),
)  # fmt: skip


def _guess(row: dict[str, str], path: Path) -> tuple[str, ...]:
    for columns in _KNOWN:
        if all(column in row for column in columns):
            return columns
    raise DataError(f"{path.name}: no input column is recognised", f"name some of {', '.join(row)} in data.text.inputs")


def _read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path.name}, line {reader.line_num}: not as many fields as the header has", "correct that line"
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
                raise DataError(f"{path.name}, line {number}: {error}", "give one JSON object a line") from error
            if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
                raise DataError(
                    f"{path.name}, line {number}: not an object with the first line's keys",
                    "give all lines the same keys",
                )
            rows.append({key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()})
            _bound(len(rows), path)
    return rows


def _bound(rows: int, path: Path) -> None:
    if rows > MAX_ROWS:
        raise DataError(f"{path.name} has more than {MAX_ROWS} rows", "split it")
