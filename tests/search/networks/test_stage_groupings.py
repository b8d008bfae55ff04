"""Networks whose stages are grouped each in its own way: their counts, and the modules that are built of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.networks.network import Measure, Network, StageGrouping
from collegium.search.spec import PresetBaseline
from collegium.train.models.ensembles import ChainEnsemble, MlpEnsemble
from collegium.train.models.residual import ResNet

MODULES = {"resnext": ResNet, "mlp": MlpEnsemble, "block": ChainEnsemble}


@st.composite
def residual_networks(draw: st.DrawFn) -> Network:
    """Networks of at most six blocks, of both kinds and of every layout."""
    stages = draw(st.integers(1, 4))
    return build_network(
        ResNextBaseline(
            family="resnext",
            layout=draw(st.sampled_from(["cifar", "imagenet", "imagenet32", "imagenet64"])),
            block=draw(st.sampled_from(["bottleneck", "basic"])),
            blocks=tuple(draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages))),
            cardinality=draw(st.integers(1, 4)),
            base_width=draw(st.integers(1, 40)),
            classes=draw(st.integers(1, 20)),
        )
    )


@st.composite
def chain_networks(draw: st.DrawFn) -> Network:
    """Networks of a single stage: fully connected ones with and without biases, and a block."""
    widths = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    if draw(st.booleans()):
        return build_network(MlpBaseline(family="mlp", inputs=7, hidden=widths, outputs=3, bias=draw(st.booleans())))
    layers = [{"type": "conv", "out": f"n{index}", "kernel": 3} for index in range(len(widths))]
    block = {
        "family": "block",
        "input": {"channels": 2, "height": 5, "width": 5},
        "layers": [*layers, {"type": "dense", "out": 4}],
        "widths": {f"n{index}": width for index, width in enumerate(widths)},
    }
    return build_network(BlockBaseline.model_validate(block))


networks = residual_networks() | chain_networks()


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Network, tuple[StageGrouping, ...]]:
    """A network and a grouping of each of its stages."""
    network = draw(networks)
    free = len(network.baseline)
    widths = st.lists(st.integers(1, 12), min_size=free, max_size=free).map(tuple)
    stages = [StageGrouping(draw(widths), draw(st.integers(1, 5))) for _ in network.stage_scales]
    return network, tuple(stages)


measures = st.sampled_from(["parameters", "flops"])


@given(network=networks, width=st.integers(1, 60), multiplicity=st.integers(1, 60), measure=measures)
def test_a_count_is_the_fixed_cost_and_that_of_every_member_of_every_stage(
    network: Network, width: int, multiplicity: int, measure: Measure
):
    widths = network.scaled(width)
    members = sum(
        multiplicity * network.stage_cost(measure, stage, [scale * n for n in widths])
        for stage, scale in enumerate(network.stage_scales)
    )
    assert network.count(measure, widths, multiplicity) == network.fixed_cost(measure) + members


@given(network=networks, width=st.integers(1, 60), multiplicity=st.integers(1, 60), measure=measures)
def test_one_grouping_for_all_stages_is_the_network_of_that_m_and_n(network, width, multiplicity, measure):
    widths = network.scaled(width)
    stages = network.stage_groupings(widths, multiplicity)
    assert network.tied(stages) == (widths, multiplicity)
    assert network.count_stages(measure, stages) == network.count(measure, widths, multiplicity)
    assert network.arguments_of(stages) == network.arguments(widths, multiplicity)
    assert network.features_of(stages) == network.features_per_sample(widths, multiplicity)
    assert network.title_of(stages) == network.title_at(widths, multiplicity)


@settings(deadline=None, max_examples=12)
@given(case=grouped())
def test_a_module_has_exactly_the_parameters_that_are_counted(case):
    network, stages = case
    with torch.device("meta"):
        module = MODULES[network.family](**network.arguments_of(stages))
    assert network.count_stages("parameters", stages) == sum(each.numel() for each in module.parameters())


@settings(deadline=None, max_examples=8)
@given(case=grouped().filter(lambda case: case[0].family == "resnext" and case[0].layout.size == 32))
def test_a_module_runs_the_multiply_accumulates_and_keeps_the_features_that_are_counted(case):
    network, stages = case
    with torch.device("meta"):
        module = ResNet(**network.arguments_of(stages))
        run, kept = 0, 0

        def count(layer, _, output):
            nonlocal run, kept
            positions = output[0, 0].numel() if output.dim() == 4 else 1
            run += layer.weight.numel() * positions
            kept += output.numel() if isinstance(layer, torch.nn.Conv2d) else 0

        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.register_forward_hook(count)
        module(torch.empty(1, 3, 32, 32))
    assert network.count_stages("flops", stages) == run
    projections = sum(
        stage.outputs * stage.size**2 for stage in network.stages if (stage.inputs, 1) != (stage.outputs, stage.stride)
    )
    # A norm keeps the convolution before it; rectified outputs, the image and the head's input and logits are kept too.
    ends = 3 * 32**2 + network.stages[-1].outputs + network.classes
    assert network.features_of(stages) == kept + (kept - projections) + ends


OWN = tuple(StageGrouping((n, n), m) for m, n in [(11, 7), (10, 14), (20, 14), (17, 31)])


def test_resnet50_with_an_m_and_an_n_for_each_stage():
    network = build_network(PresetBaseline(preset="resnet50"))
    assert network.tied(OWN) is None
    assert network.count_stages("parameters", OWN) == 15_493_916
    assert network.title_of(OWN) == "11×7, 10×14, 20×14, 17×31 of ResNet-50 1×64d (imagenet)"
    arguments = network.arguments_of(OWN)
    assert arguments["groups"] == [11, 10, 20, 17]
    assert [stage[0]["widths"] for stage in arguments["stages"]] == [[77, 77], [140, 140], [280, 280], [527, 527]]


def test_a_module_whose_stages_have_one_multiplicity_is_described_by_one_number():
    network = build_network(PresetBaseline(preset="resnet50"))
    stages = tuple(StageGrouping((n, n), 4) for n in (16, 30, 62, 120))
    assert network.arguments_of(stages)["groups"] == 4
    assert network.title_of(stages) == "4×16, 4×30, 4×62, 4×120 of ResNet-50 1×64d (imagenet)"


def test_widths_of_a_stage_that_differ_are_all_named():
    assert str(StageGrouping((7, 9), 11)) == "11×7·9"


def test_groupings_are_as_many_as_the_stages():
    network = build_network(PresetBaseline(preset="resnet50"))
    for call in (network.arguments_of, network.features_of, network.title_of, network.tied):
        with pytest.raises(ValueError, match="has 4 stages"):
            call(OWN[:3])
    with pytest.raises(ValueError, match="has 4 stages"):
        network.count_stages("flops", (*OWN, OWN[0]))
    with pytest.raises(ValueError, match="zip"):
        ResNet(**{**network.arguments_of(OWN), "groups": [11, 10, 20]})


@dataclass(frozen=True)
class Doubling(Network):
    """A network of another package: two stages, of which it gives no costs of their own."""

    @property
    def stage_scales(self) -> tuple[int, ...]:
        return 1, 2

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        return 5, sum(3 * width for width in widths)

    @property
    def counted_layers(self) -> range:
        return range(1)

    def repeated_channels(self, shape: tuple[int, ...]) -> None:
        return None

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict:
        return {"widths": list(widths), "members": multiplicity}


def test_a_family_without_costs_of_its_stages_keeps_one_m_and_n():
    chain = build_network(MlpBaseline(family="mlp", inputs=3, hidden=(4, 4))).chain
    network = Doubling("Doubling", chain, (4, 4), 1)
    tied = network.stage_groupings((4, 4), 2)
    assert not network.separable
    assert network.count_stages("parameters", tied) == 5 + 2 * 24
    assert network.arguments_of(tied) == {"widths": [4, 4], "members": 2}
    own = (StageGrouping((4, 4), 2), StageGrouping((4, 4), 2))
    for call in (network.arguments_of, network.features_of, lambda stages: network.count_stages("flops", stages)):
        with pytest.raises(ValueError, match="the stages of Doubling cannot be grouped each in its own way"):
            call(own)
