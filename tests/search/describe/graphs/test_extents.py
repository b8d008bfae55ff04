"""A described network at maps of another extent is the module there, or is refused with what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_module import GraphNetwork as Described
from collegium.search.networks.families.network_module import regroup_branches
from collegium.search.parse import parse_spec
from collegium.search.regroup.grouped import GraphNetwork

Made = Callable[[str], tuple[nn.Module, Tensor]]


def of(baseline: NetworkBaseline) -> Described:
    network = build_network(parse_spec(NetworkBaseline, json.loads(baseline.model_dump_json())))
    assert isinstance(network, Described)
    return network


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_it_is_the_module_there_with_the_costs_of_a_description_there(made: Made, name: str):
    model, _ = made(name)
    model.eval()
    other = torch.randn(2, 3, 24, 20)
    found = of(describe(model, torch.zeros(1, 3, 16, 16), other_input=other)).with_samples((1, 24, 20))
    assert found.repeated_channels((1, 24, 20)) == 3  # grey images are repeated
    there = of(describe(model, other))
    stages = found.stage_groupings(found.baseline, found.multiplicity)
    assert found.count_stages("flops", stages) == there.described.flops
    assert found.features_of(stages) == there.features_of(stages)
    built = GraphNetwork(**found.arguments(found.baseline, found.multiplicity)).eval()
    built.load_state_dict(model.state_dict())
    assert torch.equal(built(other), model(other))


def test_a_grouping_costs_there_what_the_description_there_says(made: Made):
    model, _ = made("resnet")
    whole = describe(model, torch.zeros(1, 3, 16, 16), other_input=torch.zeros(1, 3, 32, 32))
    there = of(describe(model, torch.zeros(1, 3, 32, 32)))
    found = of(whole).with_samples((3, 32, 32))
    for part, expected in zip(found.parts, there.parts, strict=True):
        assert part.count("flops", (6, 6), 3) == expected.count("flops", (6, 6), 3)
    counts = [regroup_branches(each, [("4", 6, 3)]).count_stages("flops", ()) for each in (found, there)]
    assert counts[0] == counts[1]


class Windows(nn.Module):
    """Its graph has a size that the maps give it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(functional.avg_pool2d(x, x.shape[2:]).flatten(1))


@pytest.mark.parametrize(
    ("model", "other"),
    [(Windows(), (1, 3, 12, 12)), (nn.Conv2d(3, 4, 3), (1, 3, 8, 8)), (nn.Linear(4, 2), (1, 4))],
)
def test_a_network_whose_graph_is_another_one_there_has_one_extent(model: nn.Module, other: tuple[int, ...]):
    own = torch.zeros(1, 4) if isinstance(model, nn.Linear) else torch.zeros(1, 3, 8, 8)
    assert not describe(model, own, other_input=torch.zeros(other)).any_extent


def test_what_is_too_small_and_other_channels_are_refused(made: Made):
    model, _ = made("convnext")
    network = of(describe(model, torch.zeros(1, 3, 16, 16), other_input=torch.zeros(1, 3, 20, 12)))
    with pytest.raises(
        SampleMismatch, match=r"3×2×2, at which .* nodes\[0\]: a map of 2×2 is too small for the kernel"
    ):
        network.with_samples((1, 2, 2))
    with pytest.raises(SampleMismatch, match="has samples of 4×8×8 and the described network takes 3×16×16"):
        network.with_samples((4, 8, 8)).repeated_channels((4, 8, 8))


@pytest.mark.parametrize("change", [{"graph": None}, {"input": [3]}])
def test_any_extent_of_a_network_without_maps_is_refused(made: Made, change: dict[str, Any]):
    model, _ = made("resnet")
    posted = json.loads(describe(model, torch.zeros(1, 3, 16, 16)).model_dump_json()) | {"any_extent": True}
    with pytest.raises(InvalidSpec, match="any_extent: must be false"):
        parse_spec(NetworkBaseline, posted | change)
