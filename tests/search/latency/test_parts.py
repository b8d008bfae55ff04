import json

import pytest
import torch

from collegium.search.latency.parts import segments, whole
from collegium.search.networks.network import StageGrouping

RESNETS = {
    "imagenet": {"family": "resnext", "layout": "imagenet", "blocks": [2, 1, 1], "base_width": 8},
    "cifar": {"family": "resnext", "layout": "cifar", "blocks": [2, 1], "cardinality": 3, "base_width": 5},
    "basic": {"family": "resnext", "layout": "imagenet64", "blocks": [1, 2], "block": "basic", "base_width": 6},
}
OTHERS = {
    "mlp": {"family": "mlp", "inputs": 12, "hidden": [7, 5], "outputs": 3, "bias": True},
    "block": {
        "family": "block",
        "input": {"channels": 4, "height": 6, "width": 5},
        "layers": [
            {"type": "conv", "out": "n", "kernel": 3},
            {"type": "relu"},
            {"type": "dense", "out": "k"},
            {"type": "relu"},
            {"type": "dense", "out": 2},
        ],
        "widths": {"n": 6, "k": 9},
    },
}
BASELINES = RESNETS | OTHERS


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("multiplicity", [1, 4])
def test_parts_hold_every_parameter_once_and_so_do_their_modules(network, name, multiplicity):
    net = network(BASELINES[name])
    parts = segments(net, net.stage_groupings(net.baseline, multiplicity))
    total = net.count("parameters", net.baseline, multiplicity)
    assert sum(part.count * part.segment.parameters for part in parts) == total
    assert whole(net, net.stage_groupings(net.baseline, multiplicity)).parameters == total
    for part in parts:
        module = part.segment.build()
        assert sum(parameter.numel() for parameter in module.parameters()) == part.segment.parameters
        assert sum(buffer.numel() for buffer in module.buffers() if buffer.dim()) == sum(
            footprint.buffers for footprint in part.segment.footprints
        )


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("size", [None, 33, 50])
def test_a_residual_network_is_the_composition_of_its_parts(network, name, size):
    net = network(RESNETS[name])
    parts = segments(net, net.stage_groupings(net.baseline, net.multiplicity), size)
    x = torch.zeros(1, *net.sample_shape(size))
    for part in parts:
        module = part.segment.build().eval()
        for repetition in range(part.count):
            assert repetition == 0 or tuple(x.shape[1:]) == part.segment.shape
            assert tuple(x.shape[1:]) == part.segment.shape
            x = module(x)
    assert x.shape == (1, net.outputs)
    leading = [part.segment.leading for part in parts]
    assert leading == [True] + [False] * (len(parts) - 1)


@pytest.mark.parametrize("name", RESNETS)
def test_layers_of_parts_are_those_of_the_whole_network_in_order(network, name):
    net = network(RESNETS[name])

    def layers(module):
        kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear, torch.nn.MaxPool2d)
        return [repr(layer) for layer in module.modules() if isinstance(layer, kinds)]

    parts = segments(net, net.stage_groupings(net.baseline, net.multiplicity))
    own = [line for part in parts for _ in range(part.count) for line in layers(part.segment.build())]
    assert own == layers(whole(net, net.stage_groupings(net.baseline, net.multiplicity)).build())


def test_equal_blocks_are_one_part(network):
    net = network({"preset": "resnet50"})
    parts = segments(net, net.stage_groupings((64, 64), 1))
    assert [part.count for part in parts] == [1, 1, 2, 1, 3, 1, 5, 1, 2, 1]


def test_a_network_without_parts_is_timed_as_a_whole(network):
    net = network(OTHERS["mlp"])
    (part,) = segments(net, net.stage_groupings(net.baseline, 3))
    assert part.segment == whole(net, net.stage_groupings(net.baseline, 3))
    assert part.count == 1


def test_equal_segments_have_one_key_and_other_shapes_another(network):
    net = network({"preset": "resnet50"})
    two, three = net.stage_groupings((8, 8), 2), net.stage_groupings((8, 8), 3)
    assert whole(net, two).key == whole(net, net.stage_groupings((8, 8), 2)).key
    assert len({whole(net, two).key, whole(net, two, 64).key, whole(net, three).key}) == 3


def test_stages_may_each_be_grouped_in_their_own_way(network):
    net = network(RESNETS["imagenet"])
    own = [StageGrouping((4, 4), 3), StageGrouping((5, 6), 2), StageGrouping((7, 7), 5)]
    total = net.count_stages("parameters", own)
    assert sum(part.count * part.segment.parameters for part in segments(net, own)) == total
    assert sum(parameter.numel() for parameter in whole(net, own).build().parameters()) == total
    groups = [json.loads(part.segment.arguments).get("groups") for part in segments(net, own)]
    assert groups == [None, 3, 3, 2, 5, None]
