"""A data format and an export format of another package: found by entry points, used in a training end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

TOY = """
from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Sample
from collegium.train.export.format import ExportFormat


class Sizes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: Annotated[int, Field(ge=10, le=1000)] = 100


class Halves(DataFormat):
    summary = "points of a plane, labelled by the side they are on"
    names = ("halves",)
    options = Sizes
    options_name = "halves"

    def sample(self, spec):
        return Sample("features", (2,))

    def recipe(self, name):
        return "digits"

    def load(self, spec, folders):
        count = self.options_of(spec).samples
        x = np.random.default_rng(spec.seed).normal(size=(2 * count, 2)).astype(np.float32)
        y = (x[:, 0] > 0).astype(np.int64)
        return Arrays(x[:count], y[:count], x[count:], y[count:], classes=2, kind="features")


class Count(ExportFormat):
    summary = "the number of parameters"
    files = {"count.txt": "how many parameters there are"}

    def write(self, package, folder):
        (folder / "count.txt").write_text(str(sum(p.numel() for p in package.model.parameters())))


class Fails(ExportFormat):
    summary = "a format that cannot be written"

    def write(self, package, folder):
        raise RuntimeError("no such thing")
"""

ENTRY_POINTS = """
[collegium.data_formats]
halves = toy:Halves
broken = toy:Missing

[collegium.export_formats]
count = toy:Count
fails = toy:Fails
"""

PROLOGUE = """
import json, sys
from pathlib import Path
from collegium.train.spec.training import TrainingSpec

MLP = {"baseline": {"family": "mlp", "inputs": 2, "hidden": [16, 16], "outputs": 2}}


def training(data="halves", **fields):
    spec = {"architecture": MLP, "data": data, **fields}
    return TrainingSpec.model_validate_json(json.dumps(spec))
"""


@pytest.fixture
def run_with_toy(tmp_path):
    """A function that runs code in a process that has the package ``toy`` installed; returns what it prints."""
    metadata = tmp_path / "packages" / "toy-1.0.dist-info"
    metadata.mkdir(parents=True)
    (tmp_path / "packages" / "toy.py").write_text(TOY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)

    def run(code):
        path = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", PROLOGUE + textwrap.dedent(code), str(tmp_path)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_formats_of_another_package_are_part_of_specifications_and_lists_without_torch(run_with_toy):
    run_with_toy(
        """
        from collegium.train.data.catalog import DATA_FORMATS, Folders, describe_formats, find, known_sample
        from collegium.train.errors import DataError
        from collegium.train.export import describe_export_formats
        from collegium.train.limits import check_training_cost

        assert describe_formats()[-1]["data"] == [{"name": "halves", "files": [], "recipe": "digits"}]
        assert describe_export_formats()[-2]["files"] == {"count.txt": "how many parameters there are"}
        spec = training({"name": "halves", "halves": {"samples": 50}}, formats=["count", "safetensors"])
        assert known_sample(spec.data).shape == (2,)
        assert spec.merged_recipe().learning_rate == 3e-3
        assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec
        assert check_training_cost(spec).parameters > 0
        # What does not use the package's options is read by processes that do not have it.
        assert "halves" not in json.loads(training("digits").model_dump_json())["data"]
        assert "has no attribute" in DATA_FORMATS.broken()["broken"]
        try:
            find("unheard-of", Folders())
        except DataError as error:
            assert "halves" in error.remedy and "toy" in error.message
        else:
            raise AssertionError("an unknown name was found")
        assert "torch" not in sys.modules
        """
    )


@pytest.mark.slow
def test_formats_of_another_package_are_trained_and_exported(run_with_toy, load_and_evaluate, tmp_path):
    result = json.loads(
        run_with_toy(
            """
            from collegium.train.engine import run

            spec = training({"name": "halves", "halves": {"samples": 200}}, formats=["count", "fails", "safetensors"])
            print(json.dumps(run(spec, artifact_dir=Path(sys.argv[1]) / "left")))
            """
        )
    )
    folder = tmp_path / "left"
    assert result["accuracy"]["test"] > 0.8
    assert load_and_evaluate(folder)["accuracy"] == result["accuracy"]["test"]
    assert int((folder / "count.txt").read_text()) == result["parameters"]
    assert "count.txt" in {item["name"] for item in result["artifacts"]}
    assert "how many parameters there are" in (folder / "README.md").read_text()
    assert [note["kind"] for note in result["notes"]] == ["fails_missing"]
    assert "no such thing" in result["notes"][0]["message"]
