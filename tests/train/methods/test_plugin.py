"""A method of another package: one file and one entry point, then everything that built-in methods have."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

TOY = '''
"""A moving average of the weights, as another package would write it."""

from __future__ import annotations

import copy
from typing import Annotated

from pydantic import Field

from collegium.train.methods.method import Method, MethodOptions


class DragOptions(MethodOptions):
    """How fast the average forgets."""

    decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="weight of the average so far")


class Drag(Method):
    """The weights are trained as usual; their moving average is the trained model."""

    name = "drag"
    summary = "plain training, and the moving average of its weights as the trained model"
    Options = DragOptions
    kept_models = 1

    def prepare(self, model, *, seed):
        return averaged(model)

    def after_step(self, model, *, step):
        import torch

        with torch.no_grad():
            for average, trained in zip(model.average.parameters(), model.trained.parameters(), strict=True):
                average.lerp_(trained, 1 - self.options.decay)

    def finish(self, model):
        return model.average.requires_grad_()


def averaged(model):
    from torch import nn

    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.trained, self.average = model, copy.deepcopy(model).requires_grad_(False)
            self.config = getattr(model, "config", None)

        def forward(self, *inputs, **named):
            return (self.trained if self.training else self.average)(*inputs, **named)

    return Averaged()
'''

LISTED = """
from collegium.train.methods import METHODS, describe_methods
from collegium.train.limits import check_training_cost

assert METHODS.names[-1] == "drag"
assert not METHODS.broken()
described = describe_methods()[-1]
option = described["options"][0]
assert (described["name"], option["name"], option["default"]) == ("drag", "decay", 0.9)
schema = TrainingSpec.model_json_schema()
assert schema["properties"]["method"]["enum"][-1] == "drag"
assert '"title": "DragOptions"' in json.dumps(schema["properties"]["expansion"])
assert training().new_method().options.decay == 0.9
for options, path in (({"copies": 3}, "copies"), (3, "copies"), ({"decay": 1.0}, "decay"), ({"soup": "x"}, "soup")):
    assert refusal(expansion=options) == [("expansion", path)], options
assert refusal(method="majority", expansion={"decay": 0.5}) == [("expansion", "decay")]
vanilla, drag = (check_training_cost(training(method=method)) for method in ("vanilla", "drag"))
assert drag.bytes - vanilla.bytes == 4 * vanilla.parameters
assert "torch" not in sys.modules
"""

TRAINED = """
import torch
from safetensors.torch import load_file
from collegium.train.engine import run
from collegium.train.loop.loop import Pace


class Stop(BaseException):
    pass


class StopAfter:
    def __init__(self, calls):
        self.left = calls

    def __call__(self, *_):
        self.left -= 1
        if self.left < 0:
            raise Stop


def weights(name):
    return load_file(folder / name / "model.safetensors")


torch.set_num_threads(1)
spec = training(expansion={"decay": 0.5}, recipe={"metric_steps": 1, "epochs": 4})
result = run(spec, artifact_dir=folder / "whole")
kept = {"checkpoint_dir": folder / "checkpoints", "pace": Pace(report=0, checkpoint=0)}
for calls in (5, 4):
    try:
        run(spec, event=StopAfter(calls), **kept)
    except Stop:
        continue
    raise AssertionError("the training was not stopped")
run(spec, artifact_dir=folder / "resumed", **kept)
run(training(method="vanilla", recipe={"epochs": 4}), artifact_dir=folder / "vanilla")
whole, resumed, vanilla = weights("whole"), weights("resumed"), weights("vanilla")
assert whole.keys() == vanilla.keys()
assert all(torch.equal(whole[name], resumed[name]) for name in whole)
assert not any(torch.equal(whole[name], vanilla[name]) for name in whole)
assert (result["method"], result["expansion"], result["models"]) == ("drag", 1, 1)

early = run(training(recipe={"epochs": 60, "patience": 2, "learning_rate": 0.05}), artifact_dir=folder / "early")
rows = json.loads((folder / "early" / "metrics.json").read_text())["history"]["training"]
assert early["best_epoch"] < early["epochs"] < 60
assert abs(early["loss"]["validation"] - min(row["validation"]["loss"] for row in rows)) < 1e-6
print(json.dumps(result["accuracy"]["test"]))
"""

PROLOGUE = """
import json, sys
from pathlib import Path
from pydantic import ValidationError
from collegium.train.spec.training import TrainingSpec

folder = Path(sys.argv[1])
MLP = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [24, 24], "outputs": 10}}


def training(**fields):
    spec = {"architecture": MLP, "data": {"name": "digits", "validation": 0.2}, "method": "drag", "seed": 1, **fields}
    return TrainingSpec.model_validate_json(json.dumps(spec))


def refusal(**fields):
    try:
        training(**fields)
    except ValidationError as error:
        return [item["loc"] for item in error.errors()]
    return []
"""


@pytest.fixture
def run_with_toy(tmp_path):
    """A function that runs code in a process that has the package ``toy`` installed; returns what it prints."""
    package = tmp_path / "packages"
    metadata = package / "toy-1.0.dist-info"
    metadata.mkdir(parents=True)
    (package / "toy.py").write_text(TOY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[collegium.methods]\ndrag = toy:Drag\n")

    def run(*code, **more):
        path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", "\n".join([PROLOGUE, *code]), str(tmp_path)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path, **more}, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_its_options_are_part_of_specifications_and_lists_without_torch(run_with_toy):
    run_with_toy(LISTED)


@pytest.mark.slow
def test_it_is_trained_resumed_stopped_early_and_exported(run_with_toy, load_and_evaluate, tmp_path):
    accuracy = json.loads(run_with_toy(TRAINED))
    assert accuracy > 0.3
    assert load_and_evaluate(tmp_path / "whole")["accuracy"] == accuracy


def test_a_method_that_loads_torch_when_imported_is_refused_by_name(run_with_toy, tmp_path):
    (tmp_path / "packages" / "toy.py").write_text(
        "import torch\n" + TOY.replace("from __future__ import annotations", "")
    )
    code = """
        from collegium.train.methods import METHODS, describe_methods
        assert "drag" not in [described["name"] for described in describe_methods()]
        assert "import torch inside" in METHODS.broken()["drag"]
        assert refusal() == [("method",)]
    """
    run_with_toy(textwrap.dedent(code))
