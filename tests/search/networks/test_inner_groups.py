"""Branches whose inner layers have groups of their own: what members have in common, the rest fixed in each of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import collegium
from collegium.search.find import find_ensemble
from collegium.search.networks.build import build_network


def net(first, second, width=24, norm=None):
    inner = [nn.Conv2d(width, width, 3, padding=1, groups=first), *([norm(width)] if norm else []), nn.ReLU()]
    return nn.Sequential(
        nn.Conv2d(6, width, 3, padding=1), nn.ReLU(), *inner,
        nn.Conv2d(width, width, 1, groups=second), nn.ReLU(), nn.Conv2d(width, 5, 3, padding=1),
    )  # fmt: skip


def described(model):
    return collegium.describe(model, torch.zeros(1, 6, 6, 6))


@pytest.mark.parametrize(
    ("first", "second", "members", "groups", "grains"),
    [
        (4, 4, 4, [1, 1, 1, 1], (1, 1, 1)),
        (2, 4, 2, [1, 1, 2, 1], (1, 2, 2)),
        (4, 6, 2, [1, 2, 3, 1], (2, 6, 3)),
        (2, 1, 1, [1, 2, 1, 1], (2, 2, 1)),
        (1, 4, 1, [1, 1, 4, 1], (1, 4, 4)),
    ],
)
def test_members_are_what_all_groups_have_in_common(first, second, members, groups, grains):
    found = build_network(described(net(first, second)))
    assert found.unsearched == ()
    assert (found.multiplicity, found.baseline) == (members, (24 // members,) * 3)
    assert [layer.groups for layer in found.chain.layers] == groups
    assert found.width_grains == grains
    assert found.count("parameters", found.baseline, members) == found.described.parameters


@pytest.mark.parametrize(
    ("model", "inner"),
    [
        (net(2, 4), (1, 2)),
        (net(2, 1), (2, 1)),
        (net(1, 1, norm=lambda width: nn.GroupNorm(4, width)), (1, 1)),
        (net(2, 2, norm=lambda width: nn.GroupNorm(4, width)), (1, 1)),
    ],
    ids=["groups", "one layer's groups", "a norm's groups", "members with a norm's groups"],
)
def test_regrouped_modules_have_the_groups_in_every_member(model, inner):
    """Counts are the answer's, widths are divided by the groups, and the module trains."""
    baseline = described(model)
    assert baseline.graph is not None  # which is regrouped too, before the search
    found = find_ensemble(baseline, estimator={"method": "monte_carlo", "samples": 300})
    for answer in (found.primal, found.dual):
        made = collegium.regroup(model, answer)
        assert sum(parameter.numel() for parameter in made.parameters()) == answer.parameters
        layers = [layer for layer in made if isinstance(layer, nn.Conv2d)]
        assert [layer.groups for layer in layers[1:3]] == [answer.multiplicity * own for own in inner]
        out = made(torch.randn(2, 6, 6, 6))
        assert out.shape == (2, 5, 6, 6)
        out.square().mean().backward()
        assert all(parameter.grad is not None for parameter in made.parameters())
