import pytest
from pydantic import ValidationError

from collegium.search.errors import InvalidSpec
from collegium.train.data.format import Sample
from collegium.train.effects import check_effects
from collegium.train.engine import run
from collegium.train.limits import check_study_cost, check_training_cost
from collegium.train.run import run_study, run_training
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

MLP = {"family": "mlp", "inputs": 64, "hidden": [16], "outputs": 10}
BLOCK = {
    "family": "block",
    "input": {"channels": 1, "height": 8, "width": 8},
    "layers": [{"type": "conv", "out": "a", "kernel": 3}, {"type": "relu"}, {"type": "dense", "out": 10}],
    "widths": {"a": 4},
}
RESNET = {"family": "resnext", "layout": "cifar", "blocks": [1, 1], "cardinality": 1, "base_width": 4}
HELD_OUT = {"name": "digits", "validation": 0.1}


def document(baseline=MLP, **fields):
    return {"architecture": {"baseline": baseline}, "data": "digits", **fields}


def training(baseline=MLP, **fields):
    return TrainingSpec.model_validate(document(baseline, **fields))


STEPS = {"schedule": "multistep", "epochs": 30}
IN_VAIN = [
    ({"evaluate_every": 5}, ("evaluate_every",), "hold some out"),
    ({**STEPS, "milestones": [10, 30]}, ("milestones", 1), "after 30 epochs"),
    ({**STEPS, "milestones": [31]}, ("milestones", 0), "falls when 31"),
    ({"schedule": "multistep"}, ("schedule",), "without milestones"),
    ({"schedule": "step", "step_epochs": 9, "epochs": 9}, ("step_epochs",), "first falls"),
    ({"schedule": "cosine", "warmup_epochs": 3.0, "epochs": 3}, ("warmup_epochs",), "never begins"),
    ({"batch_size": 1, "mixup": 0.2}, ("mixup",), "samples of one batch"),
    ({"batch_size": 1, "cutmix": 0.2}, ("cutmix",), "samples of one batch"),
    ({"channels_last": True}, ("channels_last",), "layout of images"),
]


@pytest.mark.parametrize(("recipe", "path", "message"), IN_VAIN)
def test_fields_of_a_recipe_that_would_do_nothing_are_refused(recipe, path, message):
    with pytest.raises(InvalidSpec, match=message) as raised:
        check_effects(training(recipe=recipe))
    assert raised.value.path == ("recipe", *path)
    with pytest.raises(InvalidSpec, match=message):
        run_training(document(recipe=recipe))
    study = {"architectures": [{"name": "A", "architecture": {"baseline": MLP}}], "data": "digits"}
    for fields, place in (
        ({"recipes": [{"name": "a", "recipe": recipe}]}, ("recipes", 0)),
        ({"methods": [{"method": "vanilla", "recipe": recipe}]}, ("methods", 0)),
    ):
        with pytest.raises(InvalidSpec, match=message) as raised:
            check_study_cost(StudySpec.model_validate({**study, **fields}))
        assert raised.value.path == (*place, "recipe", *path)


@pytest.mark.parametrize(
    ("fields", "baseline"),
    [
        ({"data": HELD_OUT, "recipe": {"evaluate_every": 5}}, MLP),
        ({"recipe": {**STEPS, "milestones": [10, 29]}}, MLP),
        ({"recipe": {"schedule": "step", "step_epochs": 8, "epochs": 9}}, MLP),
        ({"recipe": {"schedule": "constant", "warmup_epochs": 3.0, "epochs": 3}}, MLP),
        ({"recipe": {"name": "ce-cifar", "epochs": 3}}, MLP),
        ({"recipe": {"channels_last": True}}, RESNET),
        ({"recipe": {"channels_last": True}, "data": "unknown-folder"}, RESNET),
        ({"recipe": {"channels_last": False, "evaluate_every": 1, "milestones": []}}, MLP),
        ({"data": HELD_OUT, "recipe": {"patience": 100, "epochs": 2}}, MLP),
    ],
)
def test_what_has_an_effect_or_is_usual_is_not_refused(fields, baseline):
    check_effects(training(baseline, **fields))


def test_patience_needs_two_evaluations():
    for recipe in ({"epochs": 1, "patience": 2}, {"epochs": 4, "evaluate_every": 4, "patience": 1}):
        with pytest.raises(InvalidSpec, match="evaluated once") as raised:
            check_effects(training(data=HELD_OUT, recipe=recipe))
        assert raised.value.path == ("recipe", "patience")


def test_a_layout_of_images_is_refused_for_features_that_were_uploaded():
    spec = training(RESNET, data="unknown", recipe={"channels_last": True})
    check_effects(spec, Sample("image", (3, 8, 8)))
    with pytest.raises(InvalidSpec, match="layout of images"):
        check_effects(spec, Sample("features", (64,)))


def cells(**fields):
    architectures = [{"name": "A", "architecture": {"baseline": MLP}}]
    return StudySpec.model_validate({"architectures": architectures, "data": "digits", **fields})


def one(recipe):
    return [{"name": "a", "recipe": recipe}]


def test_a_study_refuses_what_does_nothing_in_any_of_its_cells():
    convolved = {"name": "B", "architecture": {"baseline": RESNET}}
    mixed = {"architectures": [{"name": "A", "architecture": {"baseline": MLP}}, convolved]}
    check_study_cost(cells(**mixed, recipes=one({"channels_last": True})))
    check_study_cost(cells(methods=["vanilla", "soup"], recipes=one({"evaluate_every": 5})))
    longer = {"name": "2x", "method": "vanilla", "recipe": {"epochs": 60}}
    check_study_cost(cells(methods=["vanilla", longer], recipes=one({**STEPS, "milestones": [20, 40]})))
    with pytest.raises(InvalidSpec, match="ends after 30 epochs") as raised:
        check_study_cost(cells(methods=["vanilla", longer], recipes=one({**STEPS, "milestones": [20, 40, 60]})))
    assert raised.value.path == ("recipes", 0, "recipe", "milestones", 2)


def test_a_sweep_refuses_what_its_longest_training_ends_before():
    recipes = one({**STEPS, "milestones": [2, 5]})
    check_study_cost(cells(recipes=recipes, sweep={"epochs": [3, 6]}))
    with pytest.raises(InvalidSpec, match="after 5 epochs") as raised:
        check_study_cost(cells(recipes=recipes, sweep={"epochs": [5, 3]}))
    assert raised.value.path == ("recipes", 0, "recipe", "milestones", 1)
    check_study_cost(cells(recipes=one({"evaluate_every": 5}), sweep={"learning_rate": [0.1]}))  # which holds some out


def test_points_of_a_sweep_that_lose_a_milestone_are_run_and_noted():
    sweep = {"epochs": [1, 3]}
    result = run_study(
        cells(recipes=one({"schedule": "multistep", "milestones": [2]}), sweep=sweep, seeds=1).model_dump()
    )
    assert result.failed == 0
    assert [note.kind for note in result.notes] == ["without_effect"]
    assert result.notes[0].message == (
        "A / vanilla / a: The training ends after 1 epoch, before 1 milestone of its schedule (2): "
        "the learning rate never falls."
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recipe": {"name": "ce-cifar", "epochs": 2, "augment": []}}, ["never falls"]),
        ({"recipe": {"name": "mk-resnet50", "epochs": 2, "augment": []}}, ["first 30 of its schedule"]),
        ({"recipe": {"epochs": 1, "warmup_epochs": 0.1}}, ["less than two steps"]),
        ({"recipe": {"epochs": 1, "precision": "tf32"}}, ["no TF32"]),
        ({"recipe": {"epochs": 2, "patience": 1}, "data": HELD_OUT}, ["cannot end a training of 2 evaluations"]),
        ({"recipe": {"epochs": 1}, "data": {"name": "digits", "limit": 5000}}, ["all of the 898 training"]),
        ({"recipe": {"epochs": 1}, "data": {"name": "digits", "test_limit": 5000}}, ["all of the 899 test"]),
        ({"recipe": {"epochs": 1}, "data": {"name": "digits", "limit": 200, "validation": 0.1}}, []),
        ({"recipe": {"epochs": 3, "schedule": "multistep", "milestones": [1]}}, []),
        ({"method": "swa", "recipe": {"epochs": 4, "batch_size": 898}}, ["those of one step, 4, with the first"]),
        ({"method": "swa", "recipe": {"epochs": 4}}, []),
        ({"method": "ema", "expansion": {"decay": 0.9999}, "recipe": {"epochs": 1}}, ["rose to 0.471 in 8 steps"]),
        ({"method": "ema", "recipe": {"epochs": 1}}, []),
        ({"method": "ema", "expansion": {"decay": 0.3}, "recipe": {"epochs": 1}}, []),
    ],
)
def test_what_a_training_has_without_effect_is_noted(fields, said):
    notes = run(training(**fields))["notes"]
    assert [note["kind"] for note in notes] == ["without_effect"] * len(said)
    assert all(part in note["message"] for part, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    ("options", "data", "path"),
    [
        ({"every": 1000}, "digits", ("expansion", "every")),
        ({"every": 2}, {"name": "digits", "limit": 128}, None),
        ({"every": 15}, {"name": "digits", "limit": 128}, ("expansion", "every")),
        ({"start": 0.999}, "digits", ("expansion", "start")),
        ({"every": 10_000}, {"name": "mnist"}, None),  # whose samples are counted when they are read
        ({"every": 10_000}, {"name": "mnist", "limit": 1000}, ("expansion", "every")),
    ],
)
def test_averages_of_one_model_are_refused_when_posted(options, data, path):
    mlp = {**MLP, "inputs": 784 if data != "digits" and data["name"] == "mnist" else 64}
    spec = training(mlp, data=data, method="swa", expansion=options, recipe={"epochs": 60, "batch_size": 128})
    if path is None:
        check_training_cost(spec)
        return
    with pytest.raises(InvalidSpec) as raised:
        check_training_cost(spec)
    assert raised.value.path == path


def test_swept_epochs_of_which_one_model_would_be_averaged_are_named():
    swa = {"method": "swa", "expansion": {"every": 20}}
    with pytest.raises(InvalidSpec, match="swa does not go with epochs 2") as raised:
        check_study_cost(cells(methods=[swa], sweep={"epochs": [60, 2]}))
    assert raised.value.path == ("sweep", "epochs")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"formats": ["safetensors", "onnx", "safetensors"]}, ("formats", 2)),
        ({"diagnostics": ["gap", "gap"]}, ("diagnostics", 1)),
        ({"recipe": {"augment": ["flip", "flip"]}}, ("recipe", "augment", 1)),
        ({"method": "majority", "expansion": {"patterns": ["*", "*"]}}, ("expansion", "patterns", 1)),
        ({"method": "subset", "expansion": {"copies": 1, "alpha": 2.0}}, ("expansion", "alpha")),
        ({"method": "subset", "expansion": {"alpha": 0.0, "beta": 0.0}}, ("expansion", "beta")),
        ({"method": "subset", "expansion": {"beta": 0.0, "neighbours": 3}}, ("expansion", "neighbours")),
        ({"method": "distilled", "expansion": {"alpha": 0.0}}, ("expansion", "alpha")),
    ],
)
def test_what_is_named_twice_or_leaves_nothing_is_refused(fields, path):
    with pytest.raises(ValidationError) as raised:
        training(**fields)
    assert [error["loc"] for error in raised.value.errors()] == [path]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"diagnostics": ["gap", "spread", "gap"]}, ("diagnostics", 2)),
        ({"sweep": {"learning_rate": [0.1, 0.2, 0.1]}}, ("sweep", "learning_rate", 2)),
        ({"sweep": {"epochs": [3, 3]}}, ("sweep", "epochs", 1)),
        ({"sweep": {"weight_decay": [0.0, 0.0]}}, ("sweep", "weight_decay", 1)),
        ({"retrain": False}, ("retrain",)),
        ({"methods": ["vanilla", "majority"], "expansion": {"soup": "uniform"}}, ("expansion", "soup")),
        ({"methods": ["vanilla"], "expansion": 5}, ("expansion", "copies")),
        ({"methods": [{"method": "soup", "expansion": 3}], "expansion": 5}, ("expansion", "copies")),
    ],
)
def test_what_a_study_names_twice_or_in_vain_is_refused(fields, path):
    with pytest.raises(ValidationError) as raised:
        cells(**fields)
    assert [error["loc"] for error in raised.value.errors()] == [path]


def test_noise_that_replaces_no_label_is_refused():
    with pytest.raises(InvalidSpec, match="replaces none of 100") as raised:
        check_training_cost(training(data={"name": "digits", "limit": 100, "label_noise": 0.004}))
    assert raised.value.path == ("data", "label_noise")
    check_training_cost(training(data={"name": "digits", "limit": 100, "label_noise": 0.006}))


def test_early_stopping_before_averaging_begins_is_noted():
    fields = {"data": HELD_OUT, "method": "swa"}
    recipe = {"epochs": 40, "patience": 1, "learning_rate": 1.0, "optimizer": "sgd", "momentum": 0.99}
    result = run(training(**fields, recipe=recipe))
    assert result["best_epoch"] < 30
    assert [note["message"].partition(",")[0] for note in result["notes"]] == ["The weights are those of one step"]
    assert "before averaging began" in result["notes"][0]["message"]
