import json
from pathlib import Path

import pytest
import torch

from collegium.search.networks.build import build_network
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import GroupedNetwork

PUBLISHED = json.loads(Path(__file__).with_name("torchvision_resnets.json").read_text())
ARGUMENTS = {
    "resnet50-12x10d": {"depth": 50, "cardinality": 12, "base_width": 10},
    "resnet50-1x64d": {"depth": 50},
    "resnet18": {"depth": 18, "block": "basic"},
}


def imagenet(**arguments):
    network = build_network(ResNextBaseline(family="resnext", layout="imagenet", **arguments))
    return blueprint(GroupedNetwork.tied(network, network.baseline, network.multiplicity)).build(seed=0)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_parameters_and_modules_of_the_imagenet_family_are_named_as_torchvision_names_them(name):
    model = imagenet(**ARGUMENTS[name])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == PUBLISHED[name]["state"]
    assert [key for key, _ in model.named_modules()] == PUBLISHED[name]["modules"]


def test_torchvision_loads_the_weights_and_computes_the_same():
    try:
        models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    except RuntimeError as error:  # a torchvision built for another torch
        pytest.skip(str(error))
    model = imagenet(**ARGUMENTS["resnet50-12x10d"]).eval()
    published = models.ResNet(models.resnet.Bottleneck, [3, 4, 6, 3], groups=12, width_per_group=10).eval()
    published.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(published(x), model(x))


def test_layouts_keep_the_extents_that_they_are_counted_with():
    x = torch.randn(2, 3, 32, 32)
    for layout, size in (("cifar", 32), ("imagenet32", 32), ("imagenet64", 64), ("imagenet", 64)):
        baseline = ResNextBaseline(
            family="resnext", layout=layout, blocks=(1, 1), cardinality=2, base_width=4, classes=7
        )
        network = build_network(baseline)
        model = blueprint(GroupedNetwork.tied(network, network.baseline, 2)).build(seed=0).eval()
        x = torch.randn(2, 3, size, size)
        assert model(x).shape == (2, 7)
