"""Rows of labelled text, and the line or column that is wrong."""

from __future__ import annotations

import pytest

from collegium.train.data.formats.text import load_text
from collegium.train.errors import DataError


def test_text_pairs_from_tsv_and_jsonl(tmp_path):
    (tmp_path / "train.tsv").write_text('sentence1\tsentence2\tlabel\nA "b\tc\t1\nd\te\t0\n', encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text('{"sentence1": "x", "sentence2": "y", "label": 1}\n\n', encoding="utf-8")
    train, test = load_text(tmp_path, None, None)
    assert train.texts == [('A "b', "c"), ("d", "e")]
    assert test.targets == ["1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\tlabel\nonly one field\n", "line 2"),
        ("sentence\tlabel\n", "no rows"),
        ("sentence\tscore\na\t1\n", "no column 'label'"),
        ("foo\tlabel\na\t1\n", "no input column"),
    ],
)
def test_wrong_text_is_refused_by_line_or_column(tmp_path, text, message):
    (tmp_path / "train.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_text(tmp_path, None, None)
