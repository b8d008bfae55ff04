"""What a family is made of, and that what is not known is refused, never taken for another one."""

from __future__ import annotations

from typing import get_args

import pytest

from collegium.registry import BrokenExtension
from collegium.search.networks import family as families
from collegium.search.networks.build import build_network
from collegium.search.networks.chain import WeightLayer
from collegium.search.networks.families.block import BLOCK, BlockBaseline, InputShape
from collegium.search.networks.families.mlp import MLP, MlpBaseline
from collegium.search.networks.families.resnext import BLOCKS, LAYOUTS, RESNEXT, ResNextBaseline
from collegium.search.networks.family import FAMILIES, Family, FamilyBaseline, family_of
from collegium.search.spec import PresetBaseline
from collegium.train.models import ensembles, residual


@pytest.mark.parametrize("name", FAMILIES.names)
def test_a_family_answers_to_the_name_in_its_baselines(name):
    assert FAMILIES[name].name == name


def test_a_network_bears_the_name_of_its_family():
    assert build_network(MlpBaseline(family="mlp", inputs=3, hidden=(4, 5))).family == "mlp"
    assert build_network(PresetBaseline(preset="resnet50")).family == "resnext"


def test_every_choice_of_the_specification_has_its_entry_and_its_module():
    fields = ResNextBaseline.model_fields
    assert set(get_args(fields["block"].annotation)) == set(BLOCKS) == set(residual.BLOCKS)
    assert set(get_args(fields["layout"].annotation)) == set(LAYOUTS)


@pytest.mark.parametrize("field", ["block", "layout"])
def test_a_further_kind_in_the_specification_alone_is_refused_at_once(field):
    known = {"family": "resnext", "layout": "cifar", "block": "basic", "depth": 20, "blocks": None}
    baseline = ResNextBaseline.model_construct(**{**known, field: "preactivation"})
    with pytest.raises(LookupError, match="is called 'preactivation'; there are"):
        RESNEXT.build(baseline)


def test_a_further_kind_of_layer_in_the_specification_alone_is_refused_at_once():
    baseline = BlockBaseline.model_construct(
        family="block", input=InputShape(channels=3), layers=(InputShape(channels=3),), widths={"n": 4}
    )
    with pytest.raises(AssertionError):
        BLOCK.build(baseline)


def test_the_module_picks_its_block_by_the_kind():
    network = build_network(ResNextBaseline(family="resnext", layout="cifar", blocks=(1,), block="basic"))
    arguments = network.arguments((4,), 1)
    assert isinstance(residual.ResNet(**arguments).layer1[0], residual.BasicBlock)
    with pytest.raises(ValueError, match="no residual block is called 'preactivation'; there are bottleneck, basic"):
        residual.ResNet(**{**arguments, "block": "preactivation"})
    with pytest.raises(ValueError, match="unpack"):
        residual.ResNet(**{**arguments, "block": "bottleneck"})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"kind": "attention", "out": 3}, "no layer is of kind 'attention'"),
        ({"kind": "conv", "out": 3, "activation": "swish"}, "no activation is called 'swish'"),
        ({"kind": "dense", "out": 3, "groups": 2}, "a dense layer has no"),
    ],
)
def test_layers_of_unknown_kinds_and_activations_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        WeightLayer(**layer)


def test_a_module_of_unknown_layers_is_refused():
    with pytest.raises(ValueError, match="no layer is of kind 'attention'"):
        ensembles.ChainEnsemble([{"kind": "attention", "inputs": 3, "out": 3, "relu": True}])


def test_a_baseline_without_the_name_of_its_family_makes_no_family():
    class Nameless(FamilyBaseline):
        family: str = "nameless"

    with pytest.raises(TypeError, match="Nameless needs a field"):
        Family("no name", Nameless, MLP.lower, MLP.module)


def test_a_family_under_another_name_is_left_out_with_the_reason(monkeypatch):
    taken = {"preset": "collegium.search.networks.families.mlp:MLP", "sum": "operator:add"}
    monkeypatch.setattr(families, "FAMILIES", type(FAMILIES)("family", "collegium.none", taken))
    usable, broken = families.usable_families()
    assert usable == {}
    assert "names must agree" in broken["preset"]
    assert "not a Family" in broken["sum"]
    renamed = type(FAMILIES)("family", "collegium.none", {"mlp": "operator:add"})
    monkeypatch.setattr(families, "FAMILIES", renamed)
    with pytest.raises(BrokenExtension, match="not a Family"):
        family_of(MlpBaseline(family="mlp", inputs=3, hidden=(4,)))
