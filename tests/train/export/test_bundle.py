import hashlib
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from collegium.train.engine import run
from collegium.train.export.onnx import difference


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The result and the folder of one training with everything asked for."""
    from collegium.train.spec.training import TrainingSpec

    folder = tmp_path_factory.mktemp("left")
    spec = TrainingSpec.model_validate(
        {
            "architecture": {
                "baseline": {"family": "mlp", "inputs": 64, "hidden": [12, 12], "outputs": 10},
                "width": 4,
                "multiplicity": 3,
            },
            "data": {"name": "digits", "validation": 0.1},
            "recipe": {"epochs": 2},
            "formats": ["safetensors", "onnx"],
            "diagnostics": ["gap"],
        }
    )
    return run(spec, artifact_dir=folder), folder


def test_every_file_is_listed_with_its_hash(left):
    result, folder = left
    listed = {item["name"]: item for item in result["artifacts"]}
    assert set(listed) == {path.name for path in folder.iterdir()}
    for name, item in listed.items():
        content = (folder / name).read_bytes()
        assert item["bytes"] == len(content)
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] == listed["model.safetensors"]["sha256"]
    assert manifest["spec"]["data"]["name"] == "digits"
    assert manifest["versions"]["torch"] == torch.__version__


def test_the_configuration_says_what_the_model_is(left):
    _, folder = left
    config = json.loads((folder / "config.json").read_text())["collegium"]
    assert (config["architecture"]["multiplicity"], config["architecture"]["widths"]) == (3, [4, 4])
    assert config["data"]["classes"] == 10
    assert len(config["preprocessing"]["mean"]) == 1


def test_the_metrics_file_has_the_result_and_every_epoch(left):
    result, folder = left
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy"] == result["accuracy"]
    assert [row["epoch"] for row in metrics["history"]["training"]] == [1, 2]
    gap = result["accuracy"]["train"] - result["accuracy"]["test"]
    assert metrics["diagnostics"]["accuracy_gap"] == pytest.approx(gap)


def test_the_card_has_metrics_and_shows_how_to_load(left):
    result, folder = left
    card = (folder / "README.md").read_text()
    assert f"{result['accuracy']['test']:.4f}" in card
    assert "model, prepare = load()" in card
    assert "m × n = 3 × (4×4)" in card
    for name in ("model.safetensors", "model.onnx", "manifest.json"):
        assert name in card


def test_the_loader_is_short_and_needs_torch_and_safetensors_alone(left):
    _, folder = left
    lines = (folder / "load.py").read_text().splitlines()
    assert len(lines) <= 50
    allowed = {
        "__future__",
        "collections",
        "importlib",
        "itertools",
        "json",
        "math",
        "pathlib",
        "sys",
        "typing",
        "torch",
        "safetensors",
    }
    for name in ("load.py", "network.py"):
        lines = (folder / name).read_text().splitlines()
        imported = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import", "from"))}
        assert imported <= allowed


NEIGHBOURS = """
import importlib.util, json, sys, types
sys.modules["network"] = sys.modules["averaged"] = foreign = types.ModuleType("network")
path = list(sys.path)
shapes, classes = [], []
for number, folder in enumerate(sys.argv[1:]):
    spec = importlib.util.spec_from_file_location(f"loader_{number}", f"{folder}/load.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    for model, prepare in (loader.load(), loader.load(folder)):
        shapes.append([list(value.shape) for value in model.state_dict().values()])
    classes.append(type(model.members[0] if hasattr(model, "models") else model))
assert len(set(classes)) == len(classes)
assert all(getattr(sys.modules[each.__module__], each.__name__) is each for each in classes)
assert sys.path == path and sys.modules["network"] is sys.modules["averaged"] is foreign
print(json.dumps(shapes))
"""


def test_checkpoints_load_beside_each_other_and_beside_modules_of_the_same_names(left, digits_spec, tmp_path):
    """Each folder's own source is loaded, whatever else is called ``network`` or ``averaged``."""
    _, ensemble = left
    residual = {"family": "resnext", "layout": "cifar", "blocks": [1, 1], "channels": 4, "base_width": 4}
    others = {
        "averaged": digits_spec({"epochs": 1}, method="ensemble", expansion=2),
        "other": digits_spec({"epochs": 1}, architecture={"baseline": residual}),
    }
    for name, spec in others.items():
        run(spec, artifact_dir=tmp_path / name)
    folders = [ensemble, *(tmp_path / name for name in others)]
    command = [sys.executable, "-I", "-c", NEIGHBOURS, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    expected = [[list(value.shape) for value in each.values()] for each in weights]
    found = json.loads(done.stdout)
    assert [sorted(each) for each in found] == [sorted(each) for each in expected for _ in range(2)]


def test_the_loader_asks_for_test_data_that_are_not_with_it(left, tmp_path):
    """A large test split stays where it is; another file of samples and labels is named."""
    folder = shutil.copytree(left[1], tmp_path / "folder")
    elsewhere = (folder / "test.safetensors").rename(tmp_path / "elsewhere.safetensors")

    def loaded(*arguments):
        command = [sys.executable, folder / "load.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    alone, named = loaded(), loaded(elsewhere)
    assert alone.returncode == 1
    assert alone.stderr.startswith(f"{folder / 'test.safetensors'} is not there: name a .safetensors file")
    assert json.loads(named.stdout)["accuracy"] == left[0]["accuracy"]["test"]


def test_another_computation_in_onnx_is_noticed(left):
    _, folder = left
    same = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert difference(same, (torch.randn(4, 1, 8, 8),), ["inputs"], folder / "model.onnx") > 0.01


def test_without_formats_only_metrics_are_left(digits_spec, tmp_path):
    run(digits_spec({"epochs": 1}, formats=[]), artifact_dir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "metrics.json", "manifest.json"}
