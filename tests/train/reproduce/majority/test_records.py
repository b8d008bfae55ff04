"""Rows survive kills, and those of several shards are one study."""

import json
import os

import pytest

from collegium.train.reproduce.majority.cells import Cell
from collegium.train.reproduce.majority.records import InUse, Records
from collegium.train.reproduce.majority.training import Training

CELL = Cell("A1", "Adam", 1000, 0.2)


def row(seed, accuracy=0.8):
    return Training(CELL, "vanilla", 1e-3, 8, seed, tuning=False).row() | {"accuracy": [1.0, 0.9, accuracy]}


def test_what_a_kill_left_of_a_row_is_discarded_and_written_anew(tmp_path):
    records = Records(tmp_path, "a.jsonl")
    records.append(row(0))
    records.append(row(1))
    records.close()
    whole = (tmp_path / "a.jsonl").read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole)):
        (tmp_path / "a.jsonl").write_bytes(whole[:end])
        again = Records(tmp_path, "a.jsonl")
        assert len(again) == 1
        again.append(row(1))
        again.close()
        assert (tmp_path / "a.jsonl").read_bytes() == whole


def test_files_of_shards_are_read_together_and_a_repeated_training_counts_once(tmp_path):
    for file, seeds in (("shard-1-of-2.jsonl", (0, 1)), ("shard-2-of-2.jsonl", (1, 2))):
        records = Records(tmp_path, file)
        for seed in seeds:
            if row(seed) not in list(records):
                records.append(row(seed))
        records.close()
    copied = (tmp_path / "shard-1-of-2.jsonl").read_bytes()
    (tmp_path / "copied.jsonl").write_bytes(copied)
    merged = Records(tmp_path)
    assert sorted(one["seed"] for one in merged.of(CELL, "vanilla")) == [0, 1, 2]
    assert len(merged) == 3
    with pytest.raises(RuntimeError, match="to be read"):
        merged.append(row(3))


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_row_that_the_disk_takes_in_parts_is_whole(tmp_path, monkeypatch, most):
    write = os.write
    records = Records(tmp_path, "a.jsonl")
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:most]))
    records.append(row(0))
    records.append(row(1))
    records.close()
    assert [json.loads(line)["seed"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize(
    ("again", "conflicting"),
    [
        ({}, False),
        ({"seconds": 5.0, "versions": "2.0"}, False),
        ({"accuracy": [1.0, 0.9, 0.7]}, True),
        ({"failure": "diverged"}, True),
    ],
)
def test_a_training_that_is_recorded_again_with_another_result_is_a_conflict(tmp_path, again, conflicting):
    for file, one in (("a.jsonl", row(0)), ("b.jsonl", row(0) | again)):
        (tmp_path / file).write_text(json.dumps(one) + "\n")
    merged = Records(tmp_path)
    assert [one["accuracy"] for one in merged] == [row(0)["accuracy"]]
    assert merged.conflicts == ({"A1 Adam 1000 20% | vanilla | 0.001 | 8 | seed 0"} if conflicting else set())


def test_two_processes_do_not_write_to_one_file(tmp_path):
    first = Records(tmp_path, "a.jsonl")
    with pytest.raises(InUse, match=r"a\.jsonl"):
        Records(tmp_path, "a.jsonl")
    first.close()
    Records(tmp_path, "a.jsonl").close()


@pytest.mark.parametrize(
    "line", ["no json", "[]", json.dumps({"architecture": "A1"}), json.dumps({**row(0), "rate": "x"})]
)
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(json.dumps(row(0)) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2"):
        Records(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"seed": "0"}, {"epochs": 8.0}, {"images": True}, {"rate": -1e-3}, {"rate": float("nan")}, {"noise": "0.2"},
        {"accuracy": None}, {"accuracy": [1.0, 0.9, "0.8"]}, {"tuning": True},
        {"tuning": True, "validation": [[0.8, 0.5]]}, {"tuning": True, "validation": {"8": ["0.8", 0.5]}},
    ],
)  # fmt: skip
def test_a_row_with_a_value_of_another_kind_is_named_by_file_and_line(damage, tmp_path):
    lines = [json.dumps(row(1)), json.dumps(row(0) | damage)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is no row of a training"):
        Records(tmp_path)
