"""The study on text: what is committed is complete, is what the documentation says, and can be trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from collegium.train.reproduce.majority.records import Records

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("text_study", ROOT / "benchmarks" / "text.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documentation_has_the_table_of_the_records(study):
    planned, records = study.units(0.0), Records(ROOT / "benchmarks" / "records" / "text")
    assert all(unit.complete(records) and len(unit.finished(records)) == 10 for unit in planned)
    table = study.report(planned, records)
    assert len(table.splitlines()) == 2 + len(study.METHODS)
    assert table in (ROOT / "docs" / "majority-when.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["vanilla", "majority, independent"])
def test_trainings_that_diverged_are_told_and_counted(study, tmp_path, capsys, method):
    records, kept = Records(ROOT / "benchmarks" / "records" / "text"), Records(tmp_path, "a.jsonl")
    planned = study.units(0.0)
    for row in records:
        if row["method"] == method and not row["tuning"] and row["seed"] < 3:
            keys = ("architecture", "optimizer", "images", "noise", "method", "tuning", "rate", "epochs", "seed")
            row = {key: row[key] for key in keys} | {"failure": "diverged"}
        kept.append(row)
    whole, some = (study.report(planned, one).splitlines() for one in (records, kept))
    assert [line.startswith(f"| {method} (3 diverged) |") for line in some].count(True) == 1
    changed = [name for name, old, new in zip(study.METHODS, whole[2:], some[2:], strict=True) if old != new]
    assert changed == (list(study.METHODS) if method == "vanilla" else [method])
    training = planned[0].wanted(Records(tmp_path / "none"))[0]
    study._print(training, training.row() | {"failure": "the loss is nan"})
    assert "diverged" in capsys.readouterr().err


def test_what_is_wanted_is_a_training_of_the_sentences(study, tmp_path):
    (first, *_), nothing = study.units(0.2), Records(tmp_path)
    spec = first.wanted(nothing)[0].spec()
    assert (spec.data.name, spec.data.label_noise, spec.architecture.transformer) == ("movie-snippets", 0.2, "bert")
    assert round(spec.data.limit * (1 - spec.data.validation)) == study.SENTENCES
