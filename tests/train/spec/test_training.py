import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

MLP = {"family": "mlp", "inputs": 64, "hidden": [100, 100], "outputs": 10}


def training(**fields):
    return {"architecture": {"baseline": MLP, "width": 8, "multiplicity": 4}, "data": "digits", **fields}


def parse(spec, model=TrainingSpec):
    return model.model_validate_json(json.dumps(spec))


@pytest.mark.parametrize(
    "architecture",
    [
        {"search": "job-1"},
        {"search": "job-1", "choice": "dual"},
        {"search": "job-1", "choice": {"width": 10, "multiplicity": 37}},
        {"search": "job-1", "choice": {"widths": [7, 39], "multiplicity": 3}},
        {"baseline": {"preset": "resnet50"}, "width": 10, "multiplicity": 12},
        {"baseline": MLP, "widths": [3, 4], "multiplicity": 2},
        {"baseline": MLP},
        {"transformer": "t5", "config": {"d_model": 64, "dropout_rate": 0.0, "feed_forward_proj": "gated-gelu"}},
        {"transformer": "bert", "pretrained": "bert-small", "head": "classification"},
    ],
)
def test_every_way_to_name_an_architecture_survives_storage(architecture):
    spec = parse(training(architecture=architecture))
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec
    assert TrainingSpec.model_validate_json(spec.model_dump_json(exclude_none=True)) == spec


def test_short_forms_mean_the_long_ones():
    spec = parse(training(method="majority", expansion=4, recipe="ce-cifar"))
    assert spec.expansion.copies == 4
    assert spec.recipe.name == "ce-cifar"
    assert spec.data.name == "digits"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"recipe": {"epochs": 10**9}}, ("recipe", "epochs")),
        ({"recipe": {"epochs": True}}, ("recipe", "epochs")),
        ({"recipe": {"epochs": "3"}}, ("recipe", "epochs")),
        ({"recipe": {"epoch": 3}}, ("recipe", "epoch")),
        ({"recipe": "unknown"}, ("recipe", "name")),
        ({"recipe": {"learning_rate": 0}}, ("recipe", "learning_rate")),
        ({"expansion": 0}, ("expansion", "copies")),
        ({"expansion": 10**6}, ("expansion", "copies")),
        ({"expansion": 3}, ("expansion", "copies")),
        ({"method": "majority", "expansion": 0}, ("expansion", "copies")),
        ({"method": "majority", "expansion": {"soup": "greedy"}}, ("expansion", "soup")),
        ({"method": "majority", "expansion": {"spread": 9.0}}, ("expansion", "spread")),
        ({"method": "soup", "expansion": {"soup": "best"}}, ("expansion", "soup")),
        ({"method": "majority", "expansion": "three"}, ("expansion",)),
        ({"method": "magic"}, ("method",)),
        ({"data": {"name": "digits", "label_noise": 1.5}}, ("data", "label_noise")),
        ({"data": "../etc/passwd"}, ("data", "name")),
        ({"seed": -1}, ("seed",)),
        ({"formats": ["pickle"]}, ("formats", 0)),
        ({"architecture": {"width": 3}}, ("architecture",)),
        ({"architecture": {"transformer": "t5", "pretrained": "../x"}}, ("architecture", "transformer", "pretrained")),
        ({"architecture": {"search": "j", "choice": {"multiplicity": 3}}}, ("architecture", "search", "choice")),
        ({"surprise": 1}, ("surprise",)),
    ],
)
def test_a_wrong_field_is_named(change, path):
    with pytest.raises(ValidationError) as raised:
        parse(training(**change))
    assert any(error["loc"][: len(path)] == path for error in raised.value.errors())


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="milestones must rise"):
        parse(training(recipe={"milestones": [5, 3]}))
    with pytest.raises(ValidationError, match="at most one of 'width' and 'widths'"):
        parse(training(architecture={"baseline": MLP, "width": 3, "widths": [3, 3]}))


def study(**fields):
    return {"architectures": [{"name": "A", "architecture": {"baseline": MLP}}], "data": "digits", **fields}


def test_a_study_counts_its_trainings():
    spec = parse(study(methods=["vanilla", "majority"], seeds=4, sweep={"learning_rate": "paper"}), StudySpec)
    assert spec.trainings() == 2 * (10 + 4)
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_study_of_too_many_trainings_is_refused():
    with pytest.raises(ValidationError, match="at most 5000"):
        parse(study(seeds=1000, methods=["vanilla", "majority", "subset", "learned", "ensemble", "soup"]), StudySpec)


def test_names_in_a_study_are_distinct():
    with pytest.raises(ValidationError, match="methods must have distinct names"):
        parse(study(methods=["vanilla", "vanilla"]), StudySpec)


def test_a_cell_takes_the_methods_fields_over_the_recipes():
    spec = parse(
        study(
            recipes=[{"name": "SGD", "recipe": {"optimizer": "sgd", "epochs": 7}}],
            methods=[{"method": "majority", "recipe": {"epochs": 9}, "expansion": {"copies": 5}}],
        ),
        StudySpec,
    )
    cell = spec.training(spec.architectures[0], spec.methods[0], spec.recipes[0], seed=3, learning_rate=0.5)
    recipe = cell.merged_recipe()
    assert (recipe.optimizer, recipe.epochs, recipe.learning_rate) == ("sgd", 9, 0.5)
    assert (cell.expansion.copies, cell.seed, cell.formats) == (5, 3, ())


def test_specifications_and_results_do_not_load_torch():
    code = (
        "import sys, collegium.train.spec.study, collegium.train.spec.recipes, collegium.train.result, "
        "collegium.train.limits, collegium.train.models.grouping; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("recipe", "path"),
    [
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, ("recipe", "nesterov")),
        ({"name": "mk-fc-sgd", "nesterov": True}, ("recipe", "nesterov")),  # whose momentum is 0
    ],
)
def test_nesterov_without_a_momentum_is_refused(recipe, path):
    with pytest.raises(ValidationError, match="nesterov needs a momentum") as raised:
        parse(training(recipe=recipe))
    assert raised.value.errors()[0]["loc"] == path
    parse(training(recipe={**recipe, "momentum": 0.9}))
