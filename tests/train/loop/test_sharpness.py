"""Stochastic sharpness on the way of a training: where it is measured, of what, and that it changes nothing else."""

import json

import pytest
import torch
from safetensors.torch import load_file

from collegium.train.engine import run
from collegium.train.loop.context import TrainingRequest, assemble
from collegium.train.loop.loop import Pace
from collegium.train.loop.runtime import DeviceLayout, Runtime
from collegium.train.loop.sharpness import measure_sharpness
from collegium.train.spec.recipes import Recipe

RECIPE = {"epochs": 5, "learning_rate": 3e-3, "dropout": 0.2, "sharpness_every": 2}


class Stop(BaseException):
    pass


def trained(digits_spec, folder, *, recipe=RECIPE, initialization="independent", **options):
    rows = []
    expansion = {"copies": 2, "initialization": initialization}
    spec = digits_spec(recipe, method="majority", expansion=expansion, diagnostics=("sharpness",))
    result = run(
        spec, event=lambda kind, row: rows.append(row) if kind == "metric" else None, artifact_dir=folder, **options
    )
    return result, [row for row in rows if row["scope"] == "epoch"]


def measured(rows):
    return {row["epoch"]: row["sharpness"] for row in rows if "sharpness" in row}


@pytest.fixture(scope="module")
def whole(digits_spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *trained(digits_spec, folder)


def test_it_is_measured_every_so_many_epochs_and_at_the_end(whole):
    folder, result, rows = whole
    found = measured(rows)
    assert list(found) == [2, 4, 5]
    history = json.loads((folder / "metrics.json").read_text())["history"]["training"]
    assert measured(history) == found
    assert all(row["sharpness_error"] > 0 for row in rows if "sharpness" in row)
    # the same quantity at the end, on all samples and by more draws
    assert found[5] == pytest.approx(result["diagnostics"]["sharpness"], rel=0.5)


def test_copies_that_are_close_have_less(digits_spec, whole, tmp_path):
    _, rows = trained(digits_spec, tmp_path, initialization="replicated")
    assert 0 <= measured(rows)[5] < measured(whole[2])[5] / 10


def test_it_changes_no_weight(digits_spec, whole, tmp_path):
    _, rows = trained(digits_spec, tmp_path, recipe={**RECIPE, "sharpness_every": 0})
    assert not measured(rows)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole[0], tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_training_measures_what_a_whole_one_does(digits_spec, whole, tmp_path):
    left = iter(range(3))

    def stop(fraction, message):
        if next(left, None) is None:
            raise Stop

    options = {"checkpoint_dir": tmp_path / "kept", "pace": Pace(report=0, checkpoint=0)}
    with pytest.raises(Stop):
        trained(digits_spec, tmp_path / "a", report=stop, **options)
    trained(digits_spec, tmp_path / "b", **options)
    history = json.loads((tmp_path / "b" / "metrics.json").read_text())["history"]["training"]
    assert measured(history) == measured(whole[2])


def test_it_does_not_depend_on_the_batches(digits_spec):
    """A hundred samples are evaluated in batches of 28 and 16, or at once."""
    spec = digits_spec(method="majority", expansion={"copies": 2, "initialization": "independent"})
    found = []
    for size in (7, 100):
        runtime = Runtime(DeviceLayout.parse("cpu").fabric("fp32"), Recipe(batch_size=size))
        context = assemble(TrainingRequest(spec), runtime.fabric)
        model = spec.new_method().prepare(context.model(0), seed=0)
        found.append(measure_sharpness(model, context.data, context.task(model), runtime, most=100))
    assert found[0].delta == pytest.approx(found[1].delta, rel=1e-4)
    assert found[0].sampled == pytest.approx(found[1].sampled, rel=1e-6)


@pytest.mark.parametrize("method", ["vanilla", "learned"])
def test_models_without_random_mixtures_have_none(digits_spec, method):
    rows = []
    run(digits_spec({"epochs": 2, "sharpness_every": 1}, method=method), event=lambda kind, row: rows.append(row))
    assert rows
    assert not any("sharpness" in row for row in rows)
