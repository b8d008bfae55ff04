"""Presets that are descriptions: plain data that says the truth about the libraries' networks."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
import transformers

from collegium.search.describe.describe import describe
from collegium.search.describe.sources import Sample, load
from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.find import find_ensemble
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.build import build_network, expand_preset
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.presets import DESCRIBED, OWN, PRESETS, Presets
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
    files = {"index.json", "timm.json", "torchvision.json", "transformers.json"}
    assert {path.name for path in DESCRIBED.iterdir()} == files
    assert len(PRESETS) == len(list(PRESETS)) == len(OWN) + len(NAMES)
    for name in NAMES:
        baseline, about = PRESETS[name]
        assert baseline.name == name
        assert name.partition(":")[2] in about
        network = build_network(PresetBaseline(preset=name))
        assert network.count("parameters", network.baseline, network.multiplicity) == baseline.parameters
        assert PRESETS.sizes[name] == {"parameters": baseline.parameters, "flops": baseline.flops}
    assert sum(path.stat().st_size for path in DESCRIBED.iterdir()) < 2_000_000


def test_the_list_reads_no_description():
    presets = Presets()
    assert [presets.about(name) for name in presets]
    assert set(presets._validated) == set(OWN)


@pytest.mark.parametrize("name", ["torchvision:resnet50", "timm:resnet50d", "transformers:microsoft/resnet-50"])
def test_a_preset_with_a_graph_takes_images_of_other_sizes(name):
    network = build_network(PresetBaseline(preset=name))
    small = network.with_samples((1, 8, 8))
    assert small.repeated_channels((1, 8, 8)) == 3
    assert small.count("flops", (10, 10), 12) < network.count("flops", (10, 10), 12) / 100
    with pytest.raises(SampleMismatch, match="takes 3×224×224"):
        network.with_samples((4, 8, 8)).repeated_channels((4, 8, 8))


#: As torch counts them in the libraries' networks at other inputs.
ELSEWHERE = {("torchvision:vgg16", (3, 32, 32)): 436_830_208, ("torchvision:resnet50", (3, 96, 160)): 1_253_212_160}


@pytest.mark.parametrize(("name", "shape"), ELSEWHERE)
def test_a_preset_at_another_input_is_the_description_there(name, shape):
    given = PresetBaseline(preset=name, input=shape)
    found, own = expand_preset(given), PRESETS[name][0]
    assert (found.input, found.parameters, found.flops) == (shape, own.parameters, ELSEWHERE[name, shape])
    assert sum(branch.count * branch.flops for branch in found.branches) == found.flops
    assert NetworkBaseline.model_validate_json(found.model_dump_json()) == found
    network = build_network(given)
    assert network.count("flops", network.baseline, network.multiplicity) == found.flops
    assert expand_preset(PresetBaseline(preset=name, input=own.input)) is own
    assert given.model_dump(mode="json") == {"preset": name, "input": list(shape)}
    assert PresetBaseline(preset=name).model_dump(mode="json") == {"preset": name}  # as it was stored


@pytest.mark.parametrize("name", [name for name in NAMES if PRESETS[name][0].any_extent])
def test_parts_of_a_preset_at_another_input_are_the_whole(name):
    found = expand_preset(PresetBaseline(preset=name, input=(3, 96, 160)))
    assert sum(branch.count * branch.flops for branch in found.branches) == found.flops


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("torchvision:alexnet", (3, 32, 32), r"nodes\[12\]: a map of 1×1 is too small for the kernel"),
        ("torchvision:vgg16", (1, 32, 32), "takes samples of 3 channels and two extents, such as 3×224×224"),
        ("torchvision:vgg16", (3, 32), "takes samples of 3 channels and two extents"),
        ("torchvision:vgg16", (), "takes samples of 3 channels and two extents"),
        ("torchvision:vit_b_16", (3, 32, 32), "takes samples of 3×224×224 alone"),
        ("resnet50", (3, 32, 32), "follow from the fields of its family resnext: give those, or name 'torchvision:"),
        ("mlp-digits-6x100", (32,), "follow from the fields of its family mlp: give those$"),
    ],
)
def test_inputs_that_a_preset_does_not_take_are_refused(name, shape, message):
    with pytest.raises(InvalidSpec, match=message) as refused:
        expand_preset(PresetBaseline(preset=name, input=shape))
    assert refused.value.path == ("baseline", "input")


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
    outcome = find_ensemble("torchvision:vit_b_16").outcome
    assert outcome.kind == "nothing_to_gain"
    assert "attention, 12 heads of 64 over 197 tokens" in outcome.message


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("transformers:")])
def test_it_is_what_the_library_has_where_it_is_installed(name):
    library = name.partition(":")[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    model, example = load(name, Sample())
    check(describe(model.eval(), example, name=name), model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("microsoft/resnet-50", "ResNet"), ("facebook/convnext-tiny-224", "ConvNext")]
)
def test_it_is_what_transformers_has_by_its_default_configuration(name, kind):
    with torch.device("meta"):
        config = getattr(transformers, f"{kind}Config")(num_labels=1000)
        model = getattr(transformers, f"{kind}ForImageClassification")(config)
    example = {"pixel_values": torch.zeros(1, 3, 224, 224)}
    check(describe(model.eval(), example, name=f"transformers:{name}"), model)


def check(found, model):
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    without = {"graph", "no_graph", "any_extent"}
    expected = PRESETS[found.name][0].model_dump_json(exclude=without)
    assert json.loads(found.model_dump_json(exclude=without)) == json.loads(expected)


def test_what_reads_too_much_is_cut_so_that_most_widths_are_free():
    """Of AlexNet the first convolution alone is left; VGG-16's thirteen are three pieces with ten free widths."""
    vgg, alexnet = (build_network(PresetBaseline(preset=f"torchvision:{name}")) for name in ("vgg16", "alexnet"))
    assert sorted(names for part in vgg.parts for names in part.names) == [
        "classifier", "features.0 … features.7", "features.10 … features.17", "features.19 … features.28",
    ]  # fmt: skip
    assert sorted(len(part.baseline) for part in vgg.parts) == [2, 3, 3, 4]
    assert sorted(names for part in alexnet.parts for names in part.names) == ["classifier", "features.3 … features.10"]
    assert all(input_window(part.chain, "unit").positions <= 1024 for part in (*vgg.parts, *alexnet.parts))
