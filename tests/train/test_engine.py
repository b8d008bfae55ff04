import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from collegium.search.errors import InvalidSpec
from collegium.train.data.catalog import load
from collegium.train.engine import run
from collegium.train.errors import DataError, Diverged, Mismatch
from collegium.train.loop.loop import Pace
from collegium.train.loop.runtime import SMALL_STEP, threads_for
from collegium.train.methods import METHODS, create
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import group_network
from collegium.train.result import TrainingResult
from collegium.train.spec.training import TrainingSpec

MLP = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [24, 24], "outputs": 10}, "width": 8, "multiplicity": 3}
EVERY_STEP = Pace(report=0, checkpoint=0)


class Stop(BaseException):
    """What a worker raises to stop a job."""


class StopAfter:
    """Lets so many calls pass, then raises."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, *_):
        self.left -= 1
        if self.left < 0:
            raise Stop


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_measures_its_collapsed_model_on_every_split(digits_spec, tmp_path):
    rows = []
    result = TrainingResult.model_validate(
        run(
            digits_spec({"epochs": 6, "learning_rate": 5e-3}),
            event=lambda _, row: rows.append(row),
            artifact_dir=tmp_path,
        )
    )
    assert 0.8 < result.accuracy.test <= 1
    assert result.accuracy.validation is not None
    assert result.loss.train < 0.8
    assert result.parameters == 64 * 24 + 3 * 64 + 24 * 10
    assert (result.multiplicity, result.widths, result.epochs, result.steps) == (3, (8, 8), 6, 36)
    epochs = [row for row in rows if row["scope"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert epochs[-1]["validation"]["top1"] == result.accuracy.validation
    assert all(row["eta_seconds"] >= 0 and row["images_per_second"] > 0 and row["memory_bytes"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("data", "recipe", "name", "epochs"),
    [("digits", {}, "digits", 60), ("digits", {"name": "mk-fc-sgd"}, "mk-fc-sgd", 30), ("0" * 64, {}, "generic", 30)],
)
def test_a_result_names_the_recipe_that_its_own_fields_complete(tmp_path, data, recipe, name, epochs):
    """An upload has no recipe of its own: the generic one is taken, and named."""
    generator = np.random.default_rng(0)
    arrays = {f"x_{split}": generator.normal(size=(40, 64)).astype(np.float32) for split in ("train", "test")}
    labels = {f"y_{split}": np.arange(40) % 10 for split in ("train", "test")}
    np.savez(tmp_path / f"{'0' * 64}.npz", **arrays, **labels)
    spec = TrainingSpec.model_validate({"architecture": MLP, "data": {"name": data, "limit": 40}, "recipe": recipe})
    assert spec.merged_recipe().epochs == epochs
    short = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"epochs": 1})})
    result = run(short, datasets_dir=tmp_path, artifact_dir=tmp_path / "left")
    assert result["recipe_name"] == name
    assert f"recipe {name}: 1 epoch of" in (tmp_path / "left" / "README.md").read_text()


def test_small_steps_take_one_thread_and_give_the_others_back(digits_spec):
    before, counts = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        run(digits_spec(), event=lambda *_: counts.append(torch.get_num_threads()))
        assert set(counts) == {1}
        with threads_for(SMALL_STEP):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_seed_determines_the_weights(digits_spec, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(digits_spec(seed=seed), artifact_dir=tmp_path / folder)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(weights(tmp_path / "a")["layers.0.weight"], weights(tmp_path / "c")["layers.0.weight"])


@pytest.mark.parametrize("calls", [0, 3, 6, 9])
@pytest.mark.parametrize("who", ["report", "event"])
def test_a_stopped_training_goes_on_to_the_same_weights(digits_spec, tmp_path, calls, who):
    spec = digits_spec({"epochs": 2, "metric_steps": 1, "optimizer": "sgd", "learning_rate": 0.05})
    run(spec, artifact_dir=tmp_path / "whole")
    kept = {"checkpoint_dir": tmp_path / "checkpoints", "pace": EVERY_STEP}
    with pytest.raises(Stop):
        run(spec, **{who: StopAfter(calls)}, **kept)
    run(spec, artifact_dir=tmp_path / "resumed", **kept)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))


@pytest.mark.usefixtures("one_thread")
def test_a_killed_training_goes_on_to_the_same_weights(digits_spec, train_and_kill, tmp_path):
    spec = digits_spec({"epochs": 40, "patience": 30})
    fractions, first = train_and_kill(spec, tmp_path / "checkpoints", 17), []
    result = run(
        spec,
        checkpoint_dir=tmp_path / "checkpoints",
        artifact_dir=tmp_path / "resumed",
        report=lambda fraction, _: first.append(fraction),
        pace=Pace(0, 20),
    )
    run(spec, artifact_dir=tmp_path / "whole")
    assert first[0] >= fractions[-2]
    assert (
        len(json.loads((tmp_path / "resumed" / "metrics.json").read_text())["history"]["training"]) == result["epochs"]
    )
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))


def test_a_stopped_training_leaves_its_last_checkpoint(digits_spec, tmp_path):
    with pytest.raises(Stop):
        run(
            digits_spec(),
            report=StopAfter(5),
            checkpoint_dir=tmp_path / "checkpoints",
            artifact_dir=tmp_path / "left",
            pace=EVERY_STEP,
        )
    assert weights(tmp_path / "left")["layers.0.weight"].isfinite().all()
    assert "did not end" in (tmp_path / "left" / "README.md").read_text()


def test_divergence_is_named_and_leaves_the_last_good_checkpoint(digits_spec, tmp_path):
    spec = digits_spec({"optimizer": "sgd", "learning_rate": 900.0, "weight_decay": 0.1, "epochs": 20})
    with pytest.raises(Diverged, match="learning rate of 900") as raised:
        run(spec, checkpoint_dir=tmp_path / "checkpoints", artifact_dir=tmp_path / "left", pace=EVERY_STEP)
    assert raised.value.kind == "user_error"
    assert "learning_rate" in raised.value.remedy
    assert all(value.isfinite().all() for value in weights(tmp_path / "left").values())


def test_a_checkpoint_of_another_training_is_not_used(digits_spec, tmp_path):
    kept = {"checkpoint_dir": tmp_path / "checkpoints", "pace": EVERY_STEP}
    with pytest.raises(Stop):
        run(digits_spec(seed=1), report=StopAfter(5), **kept)
    run(digits_spec(seed=2), artifact_dir=tmp_path / "a", **kept)
    run(digits_spec(seed=2), artifact_dir=tmp_path / "b")
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_patience_ends_early_with_the_best_weights(digits_spec, tmp_path):
    spec = digits_spec({"epochs": 60, "patience": 2, "learning_rate": 0.05})
    result = run(spec, artifact_dir=tmp_path)
    assert result["epochs"] == result["best_epoch"] + 2 < 60
    rows = json.loads((tmp_path / "metrics.json").read_text())["history"]["training"]
    assert result["loss"]["validation"] == pytest.approx(min(row["validation"]["loss"] for row in rows))


def test_accumulated_gradients_are_those_of_the_whole_batch(digits_spec, tmp_path):
    for folder, parts in (("whole", 1), ("parts", 4)):
        recipe = {"accumulate": parts, "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-3}
        run(digits_spec(recipe), artifact_dir=tmp_path / folder)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "parts")[name], value, rtol=1e-3, atol=1e-5)


def test_a_head_for_other_classes_is_replaced_and_noted(digits_spec):
    baseline = {"family": "mlp", "inputs": 64, "hidden": [30, 30], "outputs": 1}
    result = run(digits_spec(architecture={"baseline": baseline, "widths": [5, 5], "multiplicity": 4}))
    assert (result["widths"], result["multiplicity"]) == ([5, 5], 4)
    assert [note["kind"] for note in result["notes"]] == ["head_replaced"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"recipe": {"epochs": 1, "sharpness_every": 1}}, ["sharpness_every"]),
        ({"diagnostics": ["sharpness", "gap", "spread"], "method": "ema"}, ["sharpness", "spread"]),
        ({"diagnostics": ["gap"]}, []),
        ({"diagnostics": ["sharpness", "spread"], "method": "majority",
          "recipe": {"epochs": 1, "sharpness_every": 1}}, []),
    ],
)  # fmt: skip
def test_what_is_measured_of_copies_and_has_none_is_noted(digits_spec, fields, named):
    notes = run(digits_spec(**{"recipe": {"epochs": 1}, **fields}))["notes"]
    assert [note["kind"] for note in notes] == ["no_copies"] * bool(named)
    assert all(name in notes[0]["message"] for name in named)


def test_augmentations_of_a_named_recipe_without_images_are_noted():
    document = {
        "architecture": {"baseline": {"family": "mlp", "inputs": 8, "hidden": [8], "outputs": 10}},
        "data": {"name": "synthetic", "synthetic": {"inputs": 8, "samples": 64}},
        "recipe": {"name": "ce-cifar", "epochs": 1, "schedule": "constant"},
    }
    assert [note["kind"] for note in run(TrainingSpec.model_validate(document))["notes"]] == ["not_augmented"]


def test_a_search_must_have_been_replaced_by_its_answer(digits_spec):
    with pytest.raises(InvalidSpec, match="result is not given"):
        run(digits_spec(architecture={"search": "job-1"}))


def test_what_does_not_go_together_is_refused_before_training(digits_spec):
    wide = {"baseline": {"family": "mlp", "inputs": 784, "hidden": [8], "outputs": 10}}
    with pytest.raises(Mismatch, match="64 inputs and the network takes 784"):
        run(digits_spec(architecture=wide))
    with pytest.raises(DataError, match="unknown"):
        run(digits_spec(data="unknown"))


def test_residual_networks_of_grey_images_train(tmp_path):
    baseline = {"family": "resnext", "layout": "cifar", "blocks": [1, 1], "cardinality": 3, "base_width": 4}
    spec = TrainingSpec.model_validate(
        {
            "architecture": {"baseline": baseline},
            "data": {"name": "digits", "limit": 96},
            "recipe": {"name": "ce-cifar", "epochs": 1, "batch_size": 32},
        }
    )
    result = run(spec, artifact_dir=tmp_path)
    assert result["multiplicity"] == 3
    assert weights(tmp_path)["layer1.0.conv2.weight"].shape == (12, 4, 3, 3)


@pytest.mark.parametrize("family", ["mlp", "resnext", "block"])
def test_the_exported_folder_alone_gives_the_recorded_accuracy(digits_spec, load_and_evaluate, tmp_path, family):
    relu = {"type": "relu"}
    layers = [{"type": "conv", "out": "a", "kernel": 3}, relu, {"type": "dense", "out": "b"}, relu]
    baseline = {
        "mlp": {"inputs": 64, "hidden": [12, 12], "outputs": 10, "bias": True},
        "resnext": {"layout": "cifar", "blocks": [1], "cardinality": 2, "base_width": 4},
        "block": {
            "input": {"channels": 1, "height": 8, "width": 8},
            "layers": [*layers, {"type": "dense", "out": 10}],
            "widths": {"a": 4, "b": 8},
        },
    }[family]
    architecture = {"baseline": {"family": family, **baseline}, "multiplicity": 2}
    result = run(digits_spec(architecture=architecture, data={"name": "digits", "limit": 200}), artifact_dir=tmp_path)
    assert load_and_evaluate(tmp_path) == {"accuracy": result["accuracy"]["test"], "samples": 200}


@pytest.mark.parametrize(
    ("baseline", "parameters"),
    [
        ({"family": "resnext", "layout": "cifar", "blocks": [1, 1, 1], "cardinality": 1, "base_width": 128}, 1_682_818),
        pytest.param({"preset": "resnext29-1x128d"}, 4_223_986, marks=pytest.mark.slow),
    ],
    ids=["one block a stage", "resnext29"],
)
def test_a_resnext_trains_on_data_in_cifars_format_end_to_end(
    load_and_evaluate, tmp_path, cifar10, baseline, parameters
):
    spec = TrainingSpec.model_validate(
        {
            "architecture": {"baseline": baseline, "width": 10, "multiplicity": 10},
            "data": {"name": "cifar10", "validation": 0.2},
            "recipe": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
        }
    )
    result = run(spec, data_dir=cifar10, artifact_dir=tmp_path / "left")
    assert result["parameters"] == parameters
    assert result["recipe"]["augment"] == ["flip", "pad_crop"]
    assert result["data"]["train"] == 24
    assert load_and_evaluate(tmp_path / "left") == {"accuracy": result["accuracy"]["test"], "samples": 6}


@pytest.mark.parametrize(
    "fields", [{"precision": "bf16"}, {"schedule": "cosine", "warmup_epochs": 1, "clip_norm": 0.5}]
)
def test_precision_schedules_and_clipping_train(digits_spec, fields):
    result = run(digits_spec({"epochs": 6, "learning_rate": 5e-3, "label_smoothing": 0.1, **fields}))
    assert result["accuracy"]["test"] > 0.6


@pytest.mark.parametrize("method", ["vanilla", "majority"])
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_recorded_scores_are_those_of_the_checkpoint_in_any_precision(
    digits_spec, load_and_evaluate, tmp_path, method, precision
):
    """The loss as well, in which each rounding of logits to eight bits is seen."""
    spec = digits_spec({"epochs": 1, "precision": precision}, method=method)
    result = run(spec, artifact_dir=tmp_path)
    assert load_and_evaluate(tmp_path)["accuracy"] == result["accuracy"]["test"]
    data, left = load(spec.data), weights(tmp_path)
    model = blueprint(group_network(spec.architecture)).build(seed=0)
    model.load_state_dict(left)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model.eval()(data.preprocessing(data.test.x)), data.test.y)
    assert result["loss"]["test"] == pytest.approx(float(loss), rel=1e-5)


TRAINED = {
    "vanilla": 1, "majority": 3, "adversarial": 3, "adversarial_majority": 3, "learned": 6,
    "ensemble": 3, "distilled": 1, "soup": 3, "ema": 1, "swa": 1, "sam": 1,
}  # fmt: skip
"""Plain models whose parameters are trained by each method; subset selection expands hidden layers alone."""


@pytest.mark.parametrize("name", METHODS.names)
def test_every_method_ends_in_a_plain_model(digits_spec, load_and_evaluate, tmp_path, name):
    spec = digits_spec({"epochs": 1}, method=name, diagnostics=["spread", "sharpness", "gap"])
    result = TrainingResult.model_validate(run(spec, artifact_dir=tmp_path))
    plain, method = 64 * 24 + 3 * 64 + 24 * 10, create(name)
    assert (result.models, result.parameters) == (3 if name == "ensemble" else 1, plain)
    assert result.trained_parameters == TRAINED.get(name, 0) * plain or name not in TRAINED
    assert plain <= result.trained_parameters <= max(method.trained_copies, method.independent_models) * plain
    assert result.expansion == method.expansion
    assert result.diagnostics is not None
    assert (result.diagnostics.spread is not None) == (method.expands and name != "subset")
    drawn = name in ("majority", "adversarial", "adversarial_majority")
    assert (result.diagnostics.sharpness is not None) == drawn
    assert (result.diagnostics.sharpness_error is not None) == drawn
    assert (result.sampled is not None) == (name == "majority")
    if name in ("majority", "ensemble"):
        assert load_and_evaluate(tmp_path)["accuracy"] == result.accuracy.test


@pytest.mark.parametrize("name", [name for name in METHODS.names if "copies" in METHODS[name].Options.model_fields])
def test_a_single_copy_is_one_model_in_the_exported_folder(digits_spec, load_and_evaluate, tmp_path, name):
    result = run(digits_spec({"epochs": 1}, method=name, expansion=1), artifact_dir=tmp_path)
    assert result["models"] == 1
    assert load_and_evaluate(tmp_path)["accuracy"] == result["accuracy"]["test"]


@pytest.mark.parametrize("method", ["majority", "learned", "subset"])
def test_patterns_that_match_nothing_are_a_fault_of_the_specification(digits_spec, method):
    spec = digits_spec({"epochs": 1}, method=method, expansion={"copies": 2, "patterns": ["encoder.*"]})
    with pytest.raises(InvalidSpec, match=r"no module or parameter is named 'encoder\.\*'") as raised:
        run(spec)
    assert raised.value.path == ("expansion", "patterns", 0)


def test_subset_selection_keeps_the_networks_size(digits_spec):
    result = run(digits_spec({"epochs": 1}, method="subset"))
    assert result["parameters"] == 64 * 24 + 3 * 64 + 24 * 10
    assert result["trained_parameters"] > 2 * result["parameters"]


@pytest.mark.parametrize("method", ["majority", "adversarial_majority", "subset", "distilled"])
def test_a_killed_training_by_any_method_goes_on_to_the_same_weights(digits_spec, tmp_path, method):
    spec = digits_spec({"metric_steps": 1}, method=method)
    run(spec, artifact_dir=tmp_path / "whole")
    kept = {"checkpoint_dir": tmp_path / "checkpoints", "pace": EVERY_STEP}
    for calls in (5, 4):
        with pytest.raises(Stop):
            run(spec, event=StopAfter(calls), **kept)
    run(spec, artifact_dir=tmp_path / "resumed", **kept)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))


def test_norms_of_a_collapsed_model_are_estimated_under_its_own_weights(tmp_path):
    baseline = {"family": "resnext", "layout": "cifar", "blocks": [1], "cardinality": 2, "base_width": 4}
    spec = TrainingSpec.model_validate(
        {
            "architecture": {"baseline": baseline},
            "method": "majority",
            "data": {"name": "digits", "limit": 64},
            "recipe": {"name": "ce-cifar", "epochs": 1, "batch_size": 64, "learning_rate": 1e-6, "augment": []},
        }
    )
    run(spec, artifact_dir=tmp_path)
    left = weights(tmp_path)
    data = load(spec.data)
    x = (data.train.x.float() - data.preprocessing.mean) / data.preprocessing.std
    stem = torch.nn.functional.conv2d(x.expand(-1, 3, -1, -1), left["conv1.weight"], padding=1)
    torch.testing.assert_close(left["bn1.running_mean"], stem.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
