"""Batch norms that have one value of a channel in a batch of one sample, which PyTorch refuses to train."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.train.engine import run
from collegium.train.limits import check_study_cost, check_training_cost
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import group_network
from collegium.train.models.norms import needs_two_samples
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

RESNEXT = {"family": "resnext", "cardinality": 2, "base_width": 4}


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))


def convolved(*last):
    layers = [nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), *last]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10))


def described(module):
    return describe(module, torch.zeros(2, 1, 8, 8), name="net").model_dump(mode="json", exclude_none=True)


NETWORKS = {
    "mlp": ({"family": "mlp", "inputs": 64, "hidden": [8], "outputs": 10}, False),
    "cifar": ({**RESNEXT, "layout": "cifar", "blocks": [1, 1, 1]}, False),
    "cifar, five stages": ({**RESNEXT, "layout": "cifar", "blocks": [1, 1, 1, 1, 1]}, True),
    "imagenet": ({**RESNEXT, "layout": "imagenet", "blocks": [1, 1]}, True),
    "flat": (flat, True),
    "on a map": (convolved, False),
    "on a point": (lambda: convolved(nn.BatchNorm2d(8)), True),
    "another norm on a point": (lambda: convolved(nn.GroupNorm(2, 8)), False),
}


def training(name, *, recipe=None, **fields):
    baseline = NETWORKS[name][0]
    architecture = {"baseline": described(baseline()) if callable(baseline) else baseline}
    spec = {"architecture": architecture, "data": "digits", "recipe": {"epochs": 1, **(recipe or {})}, **fields}
    return TrainingSpec.model_validate(spec)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_sample_is_refused_where_pytorch_refuses_it(name):
    ensemble, expected = group_network(training(name).architecture), NETWORKS[name][1]
    assert needs_two_samples(ensemble, (1, 8, 8)) == expected
    model = blueprint(ensemble).build(seed=0).train()
    shape = {"mlp": (1, 64)}.get(name, (1, 3 if name.startswith(("cifar", "imagenet")) else 1, 8, 8))
    with pytest.raises(ValueError, match="more than 1 value") if expected else nullcontext():
        model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("recipe", "data", "path"),
    [
        ({"batch_size": 1}, {"name": "digits"}, ("recipe", "batch_size")),
        ({}, {"name": "digits", "limit": 1}, ("data", "limit")),
    ],
)
def test_it_is_refused_at_the_field_when_it_is_posted(recipe, data, path):
    for name, (_, refused) in NETWORKS.items():
        spec = training(name, recipe=recipe, data=data)
        if not refused:
            check_training_cost(spec)
            continue
        with pytest.raises(InvalidSpec, match="two samples") as raised:
            check_training_cost(spec)
        assert raised.value.path == path
    study = {"architectures": [{"name": "A", "architecture": spec.architecture.model_dump(mode="json")}], "data": data}
    study["architectures"].append({"name": "B", "architecture": {"baseline": NETWORKS["imagenet"][0]}})
    study["recipes"] = [{"name": "R", "recipe": recipe}]
    with pytest.raises(InvalidSpec, match="two samples") as raised:
        check_study_cost(StudySpec.model_validate(study))
    assert raised.value.path == (("recipes", 0, *path) if path[0] == "recipe" else path)


def test_processes_need_a_sample_each_and_two_where_there_are_norms():
    spec = training("mlp", recipe={"batch_size": 2})
    check_training_cost(spec, processes=2)
    with pytest.raises(InvalidSpec, match="3 processes share a batch") as raised:
        check_training_cost(spec, processes=3)
    assert raised.value.path == ("recipe", "batch_size")
    check_training_cost(training("flat", recipe={"batch_size": 4}), processes=2)
    with pytest.raises(InvalidSpec, match="two samples at least in each process") as raised:
        check_training_cost(training("flat", recipe={"batch_size": 3}), processes=2)
    assert raised.value.path == ("recipe", "batch_size")


def test_so_few_training_samples_that_a_norm_has_one_are_refused():
    with pytest.raises(InvalidSpec, match="there are 1 for training") as raised:
        run(training("flat", data={"name": "digits", "limit": 2, "validation": 0.5}))
    assert raised.value.path == ("data", "limit")


@pytest.mark.parametrize("recipe", [{"batch_size": 4, "accumulate": 4}, {"batch_size": 5, "accumulate": 3}])
@pytest.mark.parametrize("method", ["vanilla", "majority"])
def test_parts_are_joined_where_a_norm_would_have_one_sample(recipe, method):
    result = run(training("flat", recipe=recipe, method=method, data={"name": "digits", "limit": 22}))
    assert result["steps"] > 0


def test_maps_are_trained_on_one_sample_at_a_time():
    result = run(training("on a map", recipe={"batch_size": 1}, data={"name": "digits", "limit": 5}))
    assert result["steps"] == 5


def test_a_batch_that_processes_cannot_share_is_refused_before_they_start():
    with pytest.raises(InvalidSpec) as raised:
        run(training("mlp", recipe={"batch_size": 1}), device="cpu:2")
    assert raised.value.path == ("recipe", "batch_size")
