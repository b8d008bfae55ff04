"""Fields that do not go together are refused at one of them, never at the whole document."""

import ast
from pathlib import Path

import pytest

import collegium.search
import collegium.train
from collegium.search.errors import InvalidSpec, readable
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec
from collegium.train.spec.recipes import RECIPES
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

MLP = {"family": "mlp", "inputs": 64, "hidden": [100, 100], "outputs": 10}
NETWORK = {"name": "A", "architecture": {"baseline": MLP}}
STAGE = {"width": 4, "multiplicity": 2}
LONG = {"name": "long", "method": "vanilla", "recipe": {"epochs": 9}}
SLOW = {"name": "slow", "recipe": {"warmup_epochs": 9.0, "epochs": 20}}


def refused(model, document):
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(model, document)
    return [readable(path) for path, _ in caught.value.errors]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"recipe": {"name": "mk-fc-sgd", "nesterov": True}}, "recipe.nesterov"),
        ({"recipe": {"optimizer": "sgd", "nesterov": True, "momentum": 0.0}}, "recipe.nesterov"),
        ({"recipe": {"milestones": [5, 3]}}, "recipe.milestones"),
        ({"recipe": {"nesterov": True}}, "recipe.nesterov"),
        ({"recipe": {"optimizer": "adamw", "nesterov": True}}, "recipe.nesterov"),
        ({"recipe": {"optimizer": "sgd", "betas": [0.8, 0.9]}}, "recipe.betas"),
        ({"recipe": {"milestones": [3, 5]}}, "recipe.milestones"),
        ({"recipe": {"schedule": "step", "milestones": [3, 5]}}, "recipe.milestones"),
        ({"recipe": {"schedule": "cosine", "step_epochs": 3}}, "recipe.step_epochs"),
        ({"recipe": {"schedule": "cosine", "factor": 0.5}}, "recipe.factor"),
        ({"recipe": {"final_rate": 0.1}}, "recipe.final_rate"),
        ({"recipe": {"augment": ["flip"], "augment_magnitude": 3}}, "recipe.augment_magnitude"),
        ({"method": "majority", "expansion": {"copies": 1, "spread": 0.5}}, "expansion.spread"),
        ({"method": "adversarial", "expansion": {"copies": 1, "correct_scale": True}}, "expansion.correct_scale"),
        ({"recipe": {"accumulate": 200}}, "recipe.accumulate"),
        ({"recipe": {"accumulate": 200, "batch_size": 100}}, "recipe.accumulate"),
        ({"recipe": {"warmup_epochs": 61.0}}, "recipe.warmup_epochs"),
        ({"method": "majority", "expansion": {"correct_scale": True, "initialization": "replicated"}},
         "expansion.correct_scale"),
        ({"method": "majority", "expansion": {"correct_scale": True, "spread": 0.0}}, "expansion.correct_scale"),
        ({"method": "adversarial", "expansion": {"initialization": "replicated"}}, "expansion.initialization"),
        ({"method": "adversarial", "expansion": {"spread": 0.0}}, "expansion.spread"),
        ({"method": "learned", "expansion": {"initialization": "replicated"}}, "expansion.initialization"),
        ({"method": "learned", "expansion": {"spread": 1e-9}}, "expansion.spread"),
        ({"method": "majority", "expansion": {"spread": 0.5, "initialization": "independent"}}, "expansion.spread"),
        ({"method": "vanilla", "expansion": 3}, "expansion"),
        ({"method": "vanilla", "expansion": {"copies": 3}}, "expansion.copies"),
        ({"architecture": {"baseline": MLP, "width": 3, "widths": [3, 3]}}, "architecture.widths"),
        ({"architecture": {"baseline": MLP, "width": 3, "stages": [STAGE]}}, "architecture.width"),
        ({"architecture": {"baseline": MLP, "stages": [{"multiplicity": 2}]}}, "architecture.stages[0].width"),
        ({"architecture": {"baseline": MLP, "stages": [{**STAGE, "widths": [2]}]}}, "architecture.stages[0].widths"),
        ({"architecture": {"baseline": MLP, "multiplicity": 2, "branches": [{**STAGE, "branch": "b"}]}},
         "architecture.multiplicity"),
        ({"architecture": {"baseline": MLP, "branches": [{"multiplicity": 2, "branch": "b"}]}},
         "architecture.branches[0].width"),
        ({"architecture": {"search": "j", "choice": {"multiplicity": 3}}}, "architecture.choice.width"),
        ({"architecture": {"search": "j", "choice": {"width": 3}}}, "architecture.choice.multiplicity"),
        ({"architecture": {"search": "j", "choice": {"width": 3, "stages": [STAGE]}}}, "architecture.choice.width"),
    ],
)  # fmt: skip
def test_of_a_training(change, path):
    document = {"architecture": {"baseline": MLP}, "data": "digits", **change}
    assert refused(TrainingSpec, document) == [path]


@pytest.mark.parametrize("name", RECIPES)
def test_what_results_and_lists_of_recipes_have_is_taken_back(name):
    recipe = RECIPES[name].model_dump(mode="json")
    document = {"architecture": {"baseline": MLP}, "data": "digits", "recipe": recipe}
    assert parse_spec(TrainingSpec, document).merged_recipe() == RECIPES[name]
    other = {"name": name, "optimizer": "adam", "schedule": "constant"}
    merged = parse_spec(TrainingSpec, {**document, "recipe": other}).merged_recipe()
    echoed = {**document, "recipe": {"name": name, **merged.model_dump(mode="json")}}
    assert parse_spec(TrainingSpec, echoed).merged_recipe() == merged
    options = parse_spec(TrainingSpec, {**document, "method": "majority", "expansion": 1}).model_dump(mode="json")
    assert parse_spec(TrainingSpec, options).expansion.copies == 1


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"architectures": [NETWORK, NETWORK]}, "architectures[1].name"),
        ({"methods": ["vanilla", "majority", "vanilla"]}, "methods[2]"),
        ({"methods": [{"method": "ema"}, {"method": "vanilla", "name": "ema"}]}, "methods[1].name"),
        ({"recipes": [{"name": "a", "recipe": {}}] * 2}, "recipes[1].name"),
        ({"seeds": [1, 2, 1]}, "seeds[2]"),
        ({"sweep": {}}, "sweep.learning_rate"),
        ({"resplit": True, "sweep": {"epochs": [3]}}, "resplit"),
        ({"seeds": 1000, "methods": ["vanilla", "ema", "swa", "sam", "soup", "ensemble"]}, "seeds"),
        ({"methods": [{"method": "majority", "expansion": {"spread": 0.5, "initialization": "independent"}}]},
         "methods[0].expansion.spread"),
        ({"recipes": [{"name": "a", "recipe": {"name": "mk-fc-sgd", "nesterov": True}}]}, "recipes[0].recipe.nesterov"),
        ({"recipes": [SLOW], "methods": ["ema", {"method": "vanilla", "recipe": {"warmup_epochs": 30.0}}]},
         "methods[1].recipe.warmup_epochs"),
        ({"recipes": [SLOW], "sweep": {"epochs": [30, 3]}}, "recipes[0].recipe.warmup_epochs"),
        ({"methods": [{"method": "sam", "recipe": {"milestones": [3]}}]}, "methods[0].recipe.milestones"),
        ({"methods": ["vanilla", LONG], "sweep": {"epochs": [1, 2]}}, "methods[1].recipe.epochs"),
        ({"methods": ["vanilla", LONG], "sweep": {"learning_rate": "paper", "epochs": [1]}},
         "methods[1].recipe.epochs"),
        ({"methods": [{"method": "vanilla", "recipe": {"weight_decay": 0.0}}], "sweep": {"weight_decay": [0.0, 0.1]}},
         "methods[0].recipe.weight_decay"),
        ({"recipes": [{"name": name, "recipe": {"name": "mk-fc-adam", "epochs": epochs}} for name, epochs in
          (("short", 3), ("long", 9))], "sweep": {"epochs": [1, 2]}}, "recipes[1].recipe.epochs"),
    ],
)  # fmt: skip
def test_of_a_study(change, path):
    assert refused(StudySpec, {"architectures": [NETWORK], "data": "digits", **change}) == [path]


def test_where_every_epoch_of_a_sweep_leaves_the_warm_up_room_nothing_is_refused():
    document = {"architectures": [NETWORK], "data": "digits", "recipes": [SLOW], "sweep": {"epochs": [9, 30]}}
    assert parse_spec(StudySpec, document).trainings() == 5


@pytest.mark.parametrize(
    "change",
    [
        {"methods": ["vanilla", LONG], "sweep": {"learning_rate": [0.1, 0.01]}},
        {"recipes": [{"name": name, "recipe": {"optimizer": name, "epochs": 9}} for name in ("adam", "sgd")],
         "sweep": {"epochs": [1, 2]}},
        {"recipes": [{"name": "a", "recipe": {}}, {"name": "b", "recipe": {"batch_size": 64, "epochs": 3}}],
         "sweep": {"epochs": [1, 2]}},
    ],
)  # fmt: skip
def test_rows_that_differ_in_what_is_not_swept_stand_beside_a_sweep(change):
    assert parse_spec(StudySpec, {"architectures": [NETWORK], "data": "digits", **change}).sweep is not None


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"estimator": {"method": "given"}}, "estimator.alpha"),
        ({"estimator": {"alpha": 1.6}}, "estimator.alpha"),
        ({"inputs": {"correlation": 0.5, "data": "digits"}}, "inputs.data"),
        ({"space": {"min_width": 9, "max_width": 3}}, "space.max_width"),
        ({"space": {"mode": "vector", "stages": "own"}}, "space.stages"),
        ({"efficiency": "latency", "budget": 1000}, "budget"),
        ({"workload": {"mode": "training"}}, "workload.batch_size"),
        ({"network": {"images": 1}}, "network.images"),
        ({"network": {"images": 1, "inputs": 2}}, "network.inputs"),
    ],
)
def test_of_a_search(change, path):
    assert refused(SearchSpec, {"baseline": MLP, **change}) == [path]


def _raised(function):
    calls = (node.exc for node in ast.walk(function) if isinstance(node, ast.Raise))
    return {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


SPECIFICATIONS = (
    *Path(collegium.train.__path__[0], "spec").glob("*.py"),
    *Path(collegium.train.__path__[0], "methods").glob("*.py"),
    *(Path(collegium.search.__path__[0], name) for name in ("spec.py", "latency/workload.py", "whole_network/spec.py")),
)


@pytest.mark.parametrize("path", SPECIFICATIONS, ids=lambda path: path.stem)
def test_no_validator_of_a_whole_model_raises_an_error_without_a_field(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and "model_validator" in map(_name, node.decorator_list):
            assert _raised(node) <= {"wrong_fields"}, node.name


def _name(decorator):
    return decorator.func.id if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) else None
