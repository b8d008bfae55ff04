"""Export formats: what is refused before training, and how each is described without torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from collegium.search.errors import InvalidSpec
from collegium.train.engine import run
from collegium.train.errors import MissingExtra
from collegium.train.export import EXPORT_FORMATS, describe_export_formats
from collegium.train.limits import check_training_cost, require_packages


@pytest.mark.parametrize("name", EXPORT_FORMATS.names)
def test_every_format_is_described(name):
    described = next(item for item in describe_export_formats() if item["name"] == name)
    assert described["summary"]
    assert described["files"]
    json.dumps(described)


def test_importing_every_format_loads_no_torch():
    code = (
        "import sys\n"
        "from collegium.train.export import EXPORT_FORMATS\n"
        "assert len(list(EXPORT_FORMATS.usable())) == len(EXPORT_FORMATS.names)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_form_that_the_model_does_not_have_is_refused_before_training(digits_spec):
    with pytest.raises(InvalidSpec, match="only a transformer") as caught:
        check_training_cost(digits_spec(formats=["safetensors", "pretrained"]))
    assert caught.value.path == ("formats", 1)


def test_an_unknown_format_is_refused_with_those_that_there_are(digits_spec):
    with pytest.raises(ValueError, match="there are safetensors, onnx, pretrained"):
        digits_spec(formats=["pickle"])


def test_what_an_exporter_says_is_plain_text():
    from collegium.train.export.onnx import _first_line

    error = RuntimeError("\x1b[96mStep 1/3\x1b[0m failed: a size\nNext steps: …")
    assert _first_line(error) == "Step 1/3 failed: a size"
    error.__cause__ = ValueError("\x1b[31mthe size is not free\x1b[0m")
    assert _first_line(error) == "the size is not free"
    assert _first_line(ValueError()) == "ValueError"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_ensemble_of_models_is_written_as_onnx(digits_spec, tmp_path):
    """Their average takes any number of inputs, which the exporter counts as one."""
    result = run(digits_spec({"epochs": 1}, method="ensemble", formats=["safetensors", "onnx"]), artifact_dir=tmp_path)
    assert result["notes"] == []
    assert (tmp_path / "model.onnx").is_file()


def test_a_package_that_is_not_installed_is_named_before_training(digits_spec, monkeypatch):
    found = importlib.util.find_spec
    absent = "onnxruntime"
    monkeypatch.setattr("collegium.train.export.format.find_spec", lambda name: None if name == absent else found(name))
    require_packages(digits_spec())
    with pytest.raises(MissingExtra, match="onnxruntime is not installed") as caught:
        require_packages(digits_spec(formats=["onnx"]))
    assert caught.value.remedy == "install: pip install 'collegium[onnx]'"
