"""The polynomial of a member's cost equals the exact count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.networks.build import build_network
from collegium.search.networks.cost import cost_polynomial
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.spec import PresetBaseline

BLOCK = BlockBaseline.model_validate_json(
    """{"family": "block", "input": {"channels": 8, "height": 7, "width": 7}, "widths": {"a": 24, "b": 6},
    "layers": [{"type": "conv", "out": "a", "kernel": 3, "stride": 2}, {"type": "relu"}, {"type": "conv", "out": "a"},
    {"type": "relu"}, {"type": "conv", "out": 12, "kernel": 3, "groups": 6}, {"type": "relu"},
    {"type": "conv", "out": "b"}, {"type": "conv", "out": "a"}, {"type": "dense", "out": 3}]}"""
)
BASELINES = [
    PresetBaseline(preset="resnet50"),
    PresetBaseline(preset="resnet18"),
    PresetBaseline(preset="mlp-cifar-400-200-100"),
    MlpBaseline(family="mlp", inputs=20, hidden=(30, 20), outputs=3, bias=True),
    BLOCK,
]


@pytest.mark.parametrize("measure", ["parameters", "flops"])
@pytest.mark.parametrize("baseline", BASELINES, ids=["bottleneck", "basic", "mlp", "bias", "block"])
@given(data=st.data())
def test_the_polynomial_is_exact(baseline, measure, data):
    network = build_network(baseline)
    grains = network.width_grains
    steps = data.draw(st.lists(st.integers(1, 300), min_size=len(grains), max_size=len(grains)))
    widths = tuple(step * size for step, size in zip(steps, grains, strict=True))
    fixed, per_member = network.affine(measure, widths)
    cost = cost_polynomial(network, measure)
    assert cost.fixed == fixed
    assert cost.per_member(np.array([widths], float))[0] == pytest.approx(per_member, rel=1e-9)


def test_grains_come_from_the_groups_above():
    assert build_network(BLOCK).width_grains == (6, 1)
