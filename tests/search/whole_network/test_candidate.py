"""A network to measure: its module, its parameters, and what identifies it."""

from __future__ import annotations

import pytest

from collegium.search.networks.network import StageGrouping
from collegium.search.whole_network.candidate import MOST_AT_ONCE, Candidate


def test_a_candidates_module_has_its_parameters(mlps, residual_network):
    own = (StageGrouping((4, 4), 3), StageGrouping((5, 5), 4))
    for candidate in (*mlps, Candidate("primal", residual_network, (4, 4), 3, own)):
        assert sum(value.numel() for value in candidate.build().parameters()) == candidate.parameters


def test_the_key_is_the_modules_whatever_the_name(mlp_network, residual_network):
    one, two = Candidate("baseline", mlp_network, (12, 12), 1), Candidate("primal", mlp_network, (12, 12), 1)
    assert one.key == two.key
    assert one.key != Candidate("baseline", mlp_network, (12, 12), 2).key
    tied = residual_network.stage_groupings((4, 4), 2)
    assert Candidate("a", residual_network, (4, 4), 2).key == Candidate("b", residual_network, (4, 4), 2, tied).key
    other = (tied[0], StageGrouping((9, 9), 2))
    assert Candidate("a", residual_network, (4, 4), 2).key != Candidate("b", residual_network, (4, 4), 2, other).key


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_small_networks_without_convolutions_are_drawn_many_at_once(device, mlps, residual_network):
    assert mlps[0].at_once(device) == MOST_AT_ONCE
    assert Candidate("a", residual_network, (4, 4), 1).at_once(device) == 1
    assert mlps[0].at_once("mps") == 1
