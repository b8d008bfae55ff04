"""Where torchvision's arguments give a network, and that they give the same one."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.networks.build import build_network
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.networks.network import StageGrouping
from collegium.train.data.catalog import load
from collegium.train.export.bundle import export
from collegium.train.export.package import Package
from collegium.train.export.torchvision_resnet import torchvision_arguments
from collegium.train.models.averaged import AveragedModel
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import GroupedNetwork
from collegium.train.models.residual import ResNet
from collegium.train.spec.data import DataSpec

PUBLISHED = json.loads((Path(__file__).parents[1] / "models/torchvision_resnets.json").read_text())


def network(layout="imagenet", **fields):
    return build_network(ResNextBaseline(family="resnext", layout=layout, **fields))


def shapes_of(block, layers, groups, width_per_group, num_classes):
    """Shapes of the weights of torchvision's ``ResNet``, by its own arithmetic."""
    shapes, inplanes, expansion = {"conv1": (64, 3, 7, 7)}, 64, 4 if block == "Bottleneck" else 1
    for stage, blocks in enumerate(layers):
        planes = 64 * 2**stage
        width = int(planes * (width_per_group / 64.0)) * groups
        for index in range(blocks):
            name = f"layer{stage + 1}.{index}"
            stride = 2 if stage and not index else 1
            if block == "Bottleneck":
                shapes[f"{name}.conv1"] = (width, inplanes, 1, 1)
                shapes[f"{name}.conv2"] = (width, width // groups, 3, 3)
                shapes[f"{name}.conv3"] = (planes * 4, width, 1, 1)
            else:
                assert (groups, width_per_group) == (1, 64)
                shapes[f"{name}.conv1"] = (planes, inplanes, 3, 3)
                shapes[f"{name}.conv2"] = (planes, planes, 3, 3)
            if stride != 1 or inplanes != planes * expansion:
                shapes[f"{name}.downsample.0"] = (planes * expansion, inplanes, 1, 1)
            inplanes = planes * expansion
    return shapes | {"fc": (num_classes, inplanes)}


def shapes_built(arguments):
    with torch.device("meta"):
        module = ResNet(**arguments)
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    return {name: tuple(m.weight.shape) for name, m in module.named_modules() if isinstance(m, kinds)}


@settings(deadline=None, max_examples=15)
@given(
    blocks=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    width=st.integers(1, 70),
    groups=st.integers(1, 9),
    classes=st.integers(1, 9),
)
def test_one_m_and_n_is_given_by_torchvisions_arguments(blocks, width, groups, classes):
    arguments = network(blocks=tuple(blocks), classes=classes).arguments((width, width), groups)
    found = torchvision_arguments(arguments)
    assert found == {
        "block": "Bottleneck",
        "layers": blocks,
        "groups": groups,
        "width_per_group": width,
        "num_classes": classes,
    }
    assert shapes_built(arguments) == shapes_of(**found)


def test_published_networks_are_given_by_their_published_arguments():
    found = torchvision_arguments(network(depth=50, cardinality=32, base_width=4).arguments((4, 4), 32))
    assert (found["layers"], found["groups"], found["width_per_group"]) == ([3, 4, 6, 3], 32, 4)
    basic = network(depth=18, block="basic")
    for arguments in (basic.arguments((64,), 1), basic.arguments((16,), 4)):  # one layer of 64 channels either way
        assert torchvision_arguments(arguments)["block"] == "BasicBlock"
        assert shapes_built(arguments) == shapes_of(**torchvision_arguments(arguments))


OWN = tuple(StageGrouping((n, n), m) for m, n in [(11, 7), (10, 14), (20, 14), (17, 31)])
ONE_M = tuple(StageGrouping((n, n), 4) for n in (16, 32, 64, 127))


@pytest.mark.parametrize(
    "arguments",
    [
        network(depth=50).arguments_of(OWN),
        network(depth=50).arguments_of(ONE_M),
        network(depth=50).arguments((8, 9), 4),
        network(depth=18, block="basic").arguments((17,), 4),
        network("cifar", depth=29).arguments((8, 8), 4),
        network("imagenet64", blocks=(1, 1, 1, 1)).arguments((8, 8), 4),
        network(blocks=(1, 1, 1)).arguments((8, 8), 4),
        network(blocks=(1, 1, 1, 1, 1)).arguments((8, 8), 4),
        network(depth=50, channels=32).arguments((8, 8), 4),
    ],
    ids=["own", "own widths", "two widths", "basic", "small stem", "small stem, four stages", "three", "five", "thin"],
)
def test_what_torchvision_does_not_give_is_none(arguments):
    assert torchvision_arguments(arguments) is None


@pytest.fixture(scope="module")
def digits():
    return load(DataSpec.model_validate({"name": "digits", "limit": 20}))


def left(folder, grouped, data, models=1):
    plan = blueprint(grouped)
    built = [plan.build(seed=seed) for seed in range(models)]
    model = built[0] if models == 1 else AveragedModel(built)
    recipe = {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant"}
    description = {
        "title": grouped.title,
        "architecture": grouped.describe(),
        "parameters": grouped.parameters,
        "models": models,
        "data": {"name": "digits"},
        "method": "vanilla",
        "recipe": {**recipe, "weight_decay": 0.0, "augment": []},
        "recipe_name": "digits",
        "seed": 0,
    }
    export(Package(model, plan, data, description, {}, ("safetensors",)), folder)
    config = json.loads((folder / "config.json").read_text())["collegium"]
    return config, (folder / "README.md").read_text()


def test_a_folder_says_how_torchvision_builds_its_network_where_it_can(tmp_path, digits):
    small = network(blocks=(1, 1, 1, 1), classes=10)
    config, card = left(tmp_path / "tied", GroupedNetwork.tied(small, (4, 4), 3), digits)
    assert config["torchvision"]["groups"] == 3
    assert "model = ResNet(Bottleneck, [1, 1, 1, 1], groups=3, width_per_group=4, num_classes=10)" in card
    config, card = left(tmp_path / "own", GroupedNetwork(small, OWN), digits)
    assert "torchvision" not in config
    assert "torchvision" not in card
    assert (tmp_path / "own" / "network.py").is_file()
    config, card = left(tmp_path / "several", GroupedNetwork.tied(small, (4, 4), 3), digits, models=2)
    assert "torchvision" not in config
    assert "torchvision" not in card


@pytest.mark.parametrize("name", ["resnet50-12x10d", "resnet50-1x64d", "resnet18"])
def test_torchvisions_own_weights_have_these_shapes(name):
    fields = {"depth": 18, "block": "basic"} if name == "resnet18" else {"depth": 50}
    groups, width = {"resnet50-12x10d": (12, 10)}.get(name, (1, 64))
    built = network(**fields)
    found = torchvision_arguments(built.arguments((width,) * len(built.baseline), groups))
    state = {key: tuple(shape) for key, shape in PUBLISHED[name]["state"].items() if key.endswith("weight")}
    assert {f"{key}.weight": shape for key, shape in shapes_of(**found).items()}.items() <= state.items()
