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


def test_what_is_wanted_is_a_training_of_the_sentences(study, tmp_path):
    (first, *_), nothing = study.units(0.2), Records(tmp_path)
    spec = first.wanted(nothing)[0].spec()
    assert (spec.data.name, spec.data.label_noise, spec.architecture.transformer) == ("movie-snippets", 0.2, "bert")
    assert round(spec.data.limit * (1 - spec.data.validation)) == study.SENTENCES
