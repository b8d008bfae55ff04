"""Counts of whole networks against the published models, and their structure as functions of m and n."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.kernel.closed_form import log_moment_ratios
from collegium.search.networks.build import build_network, list_presets
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.networks.network import Network
from collegium.search.spec import PresetBaseline


def residual(layout: str, depth: int, multiplicity: int, width: int, **more) -> Network:
    return build_network(
        ResNextBaseline(
            family="resnext", layout=layout, depth=depth, cardinality=multiplicity, base_width=width, **more
        )
    )


def parameters(network: Network) -> int:
    return network.count("parameters", network.baseline, network.multiplicity)


@pytest.mark.parametrize(
    ("layout", "depth", "multiplicity", "width", "expected"),
    [
        ("cifar", 29, 1, 128, 13_775_178),
        ("cifar", 29, 3, 64, 13_346_378),
        ("cifar", 29, 37, 10, 13_743_646),
        ("cifar", 29, 10, 10, 4_223_986),
        ("cifar", 29, 8, 12, 4_191_818),
        ("cifar", 29, 1, 226, 36_345_166),
        ("cifar", 29, 101, 10, 36_308_766),
        ("imagenet", 50, 1, 64, 25_557_032),
        ("imagenet", 50, 32, 4, 25_028_904),
        ("imagenet", 50, 12, 10, 25_758_040),
        ("imagenet", 50, 4, 16, 17_069_096),
        ("imagenet", 101, 1, 64, 44_549_160),
        ("imagenet", 101, 5, 12, 25_812_776),
    ],
)
def test_parameters_are_those_published(layout, depth, multiplicity, width, expected):
    assert parameters(residual(layout, depth, multiplicity, width)) == expected


def test_basic_blocks_have_as_many_parameters_as_in_torchvision():
    assert parameters(residual("imagenet", 18, 1, 64, block="basic")) == 11_689_512
    assert parameters(residual("imagenet", 34, 1, 64, block="basic")) == 21_797_672


def test_resnet50_costs_four_billion_multiply_accumulates():
    network = build_network(PresetBaseline(preset="resnet50"))
    assert network.count("flops", network.baseline, 1) == pytest.approx(4.09e9, rel=1e-3)


@pytest.mark.parametrize(
    ("preset", "width", "multiplicity"),
    [("resnext29-1x128d", 10, 37), ("resnet50", 10, 12), ("resnet50", 8, 15), ("resnext29-1x226d", 10, 101)],
)
def test_matching_the_real_count_gives_the_published_multiplicity(preset, width, multiplicity):
    network = build_network(PresetBaseline(preset=preset))
    fixed, member = network.affine("parameters", network.scaled(width))
    assert round((parameters(network) - fixed) / member) == multiplicity


def test_mlp_counts_with_and_without_biases():
    plain = MlpBaseline(family="mlp", inputs=784, hidden=(500, 300), outputs=10)
    assert parameters(build_network(plain)) == 784 * 500 + 500 * 300 + 300 * 10
    biased = build_network(plain.model_copy(update={"bias": True}))
    assert biased.affine("parameters", (500, 300)) == (10, 784 * 500 + 500 * 300 + 300 * 10 + 800)


@given(
    widths=st.lists(st.integers(1, 64), min_size=2, max_size=2),
    multiplicity=st.integers(1, 50),
    measure=st.sampled_from(["parameters", "flops"]),
)
def test_counts_are_affine_in_the_multiplicity(widths, multiplicity, measure):
    network = build_network(PresetBaseline(preset="resnet50"))
    one, two = (network.count(measure, widths, m) for m in (1, 2))
    assert network.count(measure, widths, multiplicity) == one + (multiplicity - 1) * (two - one)


def test_inverse_fan_in_sums_are_those_of_the_paper():
    bottleneck = build_network(PresetBaseline(preset="resnet50"))
    assert bottleneck.inverse_fan_in_sum((10, 10)) == pytest.approx(1 / 256 + 1 / 90 + 1 / 10)
    mlp = build_network(PresetBaseline(preset="mlp-mnist-6x500"))
    assert mlp.inverse_fan_in_sum((48,) * 5) == pytest.approx(5 / 48)


def test_scaled_widths_share_a_ratio_and_stay_positive():
    network = build_network(MlpBaseline(family="mlp", inputs=8, hidden=(400, 200, 100), outputs=1))
    assert network.scaled(40) == (40, 20, 10)
    assert network.scaled(1) == (1, 1, 1)


def test_a_single_hidden_layer_has_nothing_to_gain():
    assert not build_network(MlpBaseline(family="mlp", inputs=8, hidden=(400,), outputs=1)).grouping_matters
    assert not build_network(PresetBaseline(preset="resnet18")).grouping_matters
    assert build_network(PresetBaseline(preset="resnet50")).grouping_matters


def test_a_block_is_lowered_layer_by_layer():
    block = BlockBaseline.model_validate(
        {
            "family": "block",
            "input": {"channels": 256, "height": 8, "width": 8},
            "layers": [
                {"type": "conv", "out": "n"},
                {"type": "relu"},
                {"type": "conv", "out": "k", "kernel": 3, "stride": 2},
                {"type": "relu"},
                {"type": "conv", "out": "n", "kernel": 3},
                {"type": "linear"},
                {"type": "dense", "out": 7},
            ],
            "widths": {"n": 64, "k": 32},
        }
    )
    network = build_network(block)
    assert network.chain.shapes(network.baseline) == [(256, 8, 8), (64, 8, 8), (32, 4, 4), (64, 4, 4), (7, 1, 1)]
    assert network.chain.fan_ins((64, 32)) == [256, 576, 288, 1024]
    assert parameters(network) == 256 * 64 + 576 * 32 + 288 * 64 + 1024 * 7
    assert network.count("flops", (64, 32), 2) == 2 * (256 * 64 * 64 + 576 * 32 * 16 + 288 * 64 * 16 + 1024 * 7)


def test_every_preset_is_described():
    rows = {row["name"]: row for row in list_presets()}
    assert {"resnet50", "resnet101", "resnet152", "mlp-mnist-6x500", "mlp-mnist-6x200"} <= set(rows)
    assert {"resnext29-1x128d", "resnext29-1x226d", "resnext29-1x64d"} <= set(rows)
    assert rows["resnet50"]["parameters"] == 25_557_032
    assert (rows["resnet50"]["family"], rows["resnet50"]["source"]) == ("resnext", "collegium")
    assert (rows["timm:resnet50d"]["family"], rows["timm:resnet50d"]["source"]) == ("network", "timm")


@pytest.mark.parametrize(("block", "positions"), [("bottleneck", 9), ("basic", 25)])
def test_fewer_channels_change_the_cost_and_not_the_kernel(block, positions):
    """The module's kernel depends on the free widths; fixed costs are those of the channels."""
    wide, thin = (
        build_network(
            ResNextBaseline(family="resnext", layout="cifar", blocks=(2, 2, 2), block=block, channels=channels)
        )
        for channels in (64, 16)
    )
    times = 4 if block == "bottleneck" else 1
    assert [(each.inputs, each.outputs) for each in thin.stages] == [
        (16, 16 * times), (16 * times, 32 * times), (32 * times, 64 * times),
    ]  # fmt: skip
    widths = np.array([(width,) * len(thin.chain.names) for width in (3, 8, 64)])
    gram = np.full((positions, positions), 0.95) + 0.05 * np.eye(positions)
    assert np.allclose(*(log_moment_ratios(each.chain, widths, gram) for each in (wide, thin)))
    assert thin.fixed_cost("parameters") < wide.fixed_cost("parameters")
    assert thin.title.endswith("(cifar, 16 channels)")
    assert wide.title.endswith("(cifar)")
