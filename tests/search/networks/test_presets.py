"""Presets that are descriptions: plain data that says the truth about the libraries' networks."""

from __future__ import annotations

import importlib.util
import json

import pytest

from collegium.search.describe.describe import describe
from collegium.search.describe.sources import Sample, load
from collegium.search.find import find_ensemble
from collegium.search.networks.build import build_network
from collegium.search.networks.presets import DESCRIBED, OWN, PRESETS
from collegium.search.spec import PresetBaseline

NAMES = [name for name in PRESETS if name not in OWN]
#: Parameters as the libraries' documentation gives them.
PUBLISHED = {
    "torchvision:alexnet": 61_100_840,
    "torchvision:vgg16": 138_357_544,
    "torchvision:vgg16_bn": 138_365_992,
    "torchvision:vgg19": 143_667_240,
    "torchvision:regnet_x_800mf": 7_259_656,
    "torchvision:densenet121": 7_978_856,
    "torchvision:mobilenet_v2": 3_504_872,
    "torchvision:efficientnet_b0": 5_288_548,
    "torchvision:convnext_tiny": 28_589_128,
    "torchvision:vit_b_16": 86_567_656,
    "torchvision:swin_t": 28_288_354,
}


def test_every_description_is_a_preset_and_is_small():
    assert {path.name for path in DESCRIBED.iterdir()} == {"timm.json", "torchvision.json"}
    assert len(PRESETS) == len(list(PRESETS)) == len(OWN) + len(NAMES)
    for name in NAMES:
        baseline, about = PRESETS[name]
        assert baseline.name == name
        assert name.partition(":")[2] in about
        network = build_network(PresetBaseline(preset=name))
        assert network.count("parameters", network.baseline, network.multiplicity) == baseline.parameters
    assert sum(path.stat().st_size for path in DESCRIBED.iterdir()) < 200_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    assert PRESETS[name][0].parameters == PUBLISHED[name]


def test_a_name_that_is_not_there_is_no_preset():
    assert "torchvision:nothing" not in PRESETS
    with pytest.raises(KeyError):
        PRESETS["torchvision:nothing"]


def test_a_preset_is_searched_without_its_library():
    answer = find_ensemble("torchvision:regnet_x_800mf", estimator={"relative_error": 0.1})
    assert answer.primal.relative_variance < 1
    assert answer.primal.branches
    assert find_ensemble("torchvision:vit_b_16").outcome.kind == "nothing_to_gain"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_library_has_where_it_is_installed(name):
    library = name.partition(":")[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    model, example = load(name, Sample())
    found = describe(model.eval(), example, name=name)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    without = {"graph", "no_graph"}
    expected = PRESETS[name][0].model_dump_json(exclude=without)
    assert json.loads(found.model_dump_json(exclude=without)) == json.loads(expected)
