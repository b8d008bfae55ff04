"""Text files as tokens: by a tokenizer from the data folder, or byte by byte where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from collegium.train.data.dataset import Arrays
from collegium.train.data.problem import DataProblem
from collegium.train.data.text_pairs import TextRows, load_text
from collegium.train.spec import TextSpec

PAD, END, BYTES_FROM = 0, 1, 3
BYTE_VOCABULARY = 256 + BYTES_FROM
IGNORED = -100

Encode = Callable[[str, int], list[int]]
"""Text and a maximal length → token ids, the end token included."""


def load_text_arrays(spec: TextSpec, folder: Path, data_dir: Path) -> Arrays:
    """Tokens ``(samples, input_length)`` and their labels from a folder of labelled text.

    With ``labels: sequence`` the label is the target's text, ``(samples, target_length)`` with −100 behind its end;
    with ``classes`` it is the index of the target among the sorted targets of the training split. Inputs are padded
    with 0. Raises ``DataProblem``.
    """
    train, test = load_text(folder, spec.inputs, spec.target)
    encode, vocabulary = _encoder(spec, data_dir)
    if spec.labels == "classes":
        names = sorted(set(train.targets))
        y_train, y_test = (_classes(rows, names) for rows in (train, test))
    else:
        names = []
        y_train, y_test = (_padded(rows.targets, encode, spec.target_length, IGNORED) for rows in (train, test))
    return Arrays(
        _padded(_joined(train), encode, spec.input_length, PAD),
        y_train,
        _padded(_joined(test), encode, spec.input_length, PAD),
        y_test,
        len(names),
        kind="tokens",
        vocabulary=vocabulary,
        summary={"source": "text", "tokenizer": spec.tokenizer or "bytes", "labels": names},
    )


def _joined(rows: TextRows) -> list[str]:
    return [" \n ".join(columns) for columns in rows.texts]


def _encoder(spec: TextSpec, data_dir: Path) -> tuple[Encode, int]:
    if spec.tokenizer is None:
        return _bytes, BYTE_VOCABULARY
    folder = data_dir / spec.tokenizer
    if not folder.is_dir():
        raise DataProblem(f"the data folder has no tokenizer {spec.tokenizer!r}", "put its pretrained folder there")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataProblem("a tokenizer needs the transformers package", "install collegium[transformers]") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataProblem(f"{spec.tokenizer} holds no tokenizer: {error}", "save one with save_pretrained") from error

    def encode(text: str, length: int) -> list[int]:
        return tokenizer(text, truncation=True, max_length=length)["input_ids"]

    return encode, len(tokenizer)


def _bytes(text: str, length: int) -> list[int]:
    return [byte + BYTES_FROM for byte in text.encode()[: length - 1]] + [END]


def _padded(texts: list[str], encode: Encode, length: int, filler: int) -> np.ndarray:
    table = np.full((len(texts), length), filler, np.int64)
    for row, text in zip(table, texts, strict=True):
        tokens = encode(text, length)
        row[: len(tokens)] = tokens
    return table


def _classes(rows: TextRows, names: list[str]) -> np.ndarray:
    index = {name: position for position, name in enumerate(names)}
    unknown = next((target for target in rows.targets if target not in index), None)
    if unknown is not None:
        raise DataProblem(
            f"the test split has the label {unknown[:80]!r}, which no training row has", "mend the labels"
        )
    return np.array([index[target] for target in rows.targets], np.int64)
