"""Networks whose stages are grouped each in its own way, from the specification to what a training leaves."""

import csv
import io
import json

import pytest
import torch
from safetensors.torch import load_file

from collegium import build_model, run_study
from collegium.search.engine import run as run_search
from collegium.search.spec import SearchSpec
from collegium.train.engine import run
from collegium.train.loop.loop import Pace
from collegium.train.models.grouping import architecture_from_search
from collegium.train.result import TrainingResult
from collegium.train.spec.architecture import SearchedArchitecture
from collegium.train.spec.training import TrainingSpec

RESNEXT = {"family": "resnext", "layout": "cifar", "blocks": [1, 2, 1], "base_width": 16}
STAGES = [{"width": 4, "multiplicity": 3}, {"widths": [6, 8], "multiplicity": 2}, {"width": 5, "multiplicity": 4}]
OWN = {"baseline": RESNEXT, "stages": STAGES}


class Stop(BaseException):
    """What a worker raises to stop a job."""


def stop_after(calls):
    """A callback of a training that lets so many calls pass, then raises."""
    passed = iter(range(calls))

    def callback(*_):
        if next(passed, None) is None:
            raise Stop

    return callback


@pytest.fixture
def own_spec(digits_spec):
    """A function of recipe and other fields to a short training on digits."""

    def make(recipe=None, **fields):
        data = {"name": "digits", "limit": 200}
        return digits_spec({"augment": [], **(recipe or {})}, architecture=OWN, data=data, **fields)

    return make


@pytest.mark.slow
def test_a_training_and_the_folder_that_it_leaves(own_spec, load_and_evaluate, tmp_path):
    result = TrainingResult.model_validate(run(own_spec(), artifact_dir=tmp_path))
    assert (result.widths, result.multiplicity) == (None, None)
    assert [str(stage) for stage in result.stages or ()] == ["3×4", "2×6·8", "4×5"]
    module = build_model(OWN)
    assert result.parameters == sum(parameter.numel() for parameter in module.parameters())
    left = load_file(tmp_path / "model.safetensors")
    assert {name: value.shape for name, value in left.items()} == {
        name: value.shape for name, value in module.state_dict().items()
    }
    assert left["layer2.1.conv2.weight"].shape == (16, 6, 3, 3)
    assert load_and_evaluate(tmp_path) == {"accuracy": result.accuracy.test, "samples": 200}
    config = json.loads((tmp_path / "config.json").read_text())["collegium"]
    assert config["arguments"]["groups"] == [3, 2, 4]
    assert config["architecture"]["stages"][1] == {"widths": [6, 8], "multiplicity": 2}
    assert "m × n of each stage: 3×4, 2×6·8, 4×5" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vanilla", "majority"])
def test_a_stopped_training_goes_on_to_the_same_weights(own_spec, tmp_path, method):
    spec = own_spec({"metric_steps": 1}, method=method)
    run(spec, artifact_dir=tmp_path / "whole")
    kept = {"checkpoint_dir": tmp_path / "checkpoints", "pace": Pace(report=0, checkpoint=0)}
    with pytest.raises(Stop):
        run(spec, event=stop_after(2), **kept)
    run(spec, artifact_dir=tmp_path / "resumed", **kept)
    whole, resumed = (load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "asked"),
    [("primal", {}), ("dual", {}), ("dual", {"efficiency": "memory"}), ("primal", {"workload": {}})],
)
def test_a_searchs_answer_is_trained_with_the_parameters_that_the_search_counted(
    digits_spec, plain_bench, choice, asked
):
    """Which answer it is does not matter: where times choose it, they are not measured here."""
    search = {"baseline": RESNEXT, "space": {"stages": "own"}}
    found = run_search(SearchSpec.model_validate_json(json.dumps({**search, **asked})), bench=plain_bench)
    chosen = SearchedArchitecture.model_validate({"search": "j", "choice": choice})
    architecture = architecture_from_search(chosen, search, json.loads(found.model_dump_json()))
    answer = getattr(found, choice)
    assert (architecture.stages is None) == answer.uniform
    spec = digits_spec({"epochs": 1, "augment": []}, architecture=architecture, data={"name": "digits", "limit": 100})
    assert run(spec)["parameters"] == answer.parameters
    built = build_model({"baseline": RESNEXT, **answer.grouping})
    assert sum(parameter.numel() for parameter in built.parameters()) == answer.parameters


@pytest.mark.slow
def test_it_learns(digits_spec):
    recipe = {"epochs": 4, "batch_size": 32, "augment": [], "learning_rate": 0.02}
    spec = digits_spec(recipe, architecture=OWN, data={"name": "digits", "limit": 400})
    assert run(spec)["accuracy"]["test"] > 0.6


@pytest.mark.slow
def test_it_trains_on_data_in_cifars_format_end_to_end(load_and_evaluate, tmp_path, cifar10):
    spec = TrainingSpec.model_validate(
        {
            "architecture": {"baseline": {"preset": "resnext29-1x64d"}, "stages": STAGES},
            "data": {"name": "cifar10"},
            "recipe": {"epochs": 1, "batch_size": 10},
        }
    )
    result = run(spec, data_dir=cifar10, artifact_dir=tmp_path / "left")
    assert result["architecture"]["title"] == "3×4, 2×6·8, 4×5 of ResNeXt-29 1×64d (cifar)"
    assert load_and_evaluate(tmp_path / "left") == {"accuracy": result["accuracy"]["test"], "samples": 6}


@pytest.mark.slow
@pytest.mark.parametrize("stages", [STAGES, [{"width": width, "multiplicity": 3} for width in (4, 8, 16)]])
def test_onnx_computes_the_same(digits_spec, tmp_path, stages):
    pytest.importorskip("onnxruntime")
    spec = digits_spec(
        {"epochs": 1, "augment": []},
        architecture={"baseline": RESNEXT, "stages": stages},
        data={"name": "digits", "limit": 100},
        formats=["safetensors", "onnx"],
    )
    result = run(spec, artifact_dir=tmp_path)
    assert {"model.onnx", "model.safetensors"} <= {item["name"] for item in result["artifacts"]}
    assert result["notes"] == []


def test_a_study_shows_the_members_of_each_stage(tmp_path):
    study = {
        "architectures": [{"name": "own", "architecture": OWN}],
        "data": {"name": "digits", "limit": 100},
        "recipes": [{"name": "short", "recipe": {"epochs": 1, "augment": []}}],
        "seeds": 1,
    }
    result = run_study(study, folder=tmp_path)
    assert [str(stage) for stage in result.cells[0].stages or ()] == ["3×4", "2×6·8", "4×5"]
    assert "| own | vanilla | short | 3×4, 2×6·8, 4×5 |" in (tmp_path / "table.md").read_text()
    (row,) = csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text()))
    assert (row["stages"], row["widths"], row["multiplicity"]) == ("3x4;2x6·8;4x5", "", "")
