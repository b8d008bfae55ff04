"""Branches of real modules: the sampled kernel is that of autograd's gradients over draws of the module's weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import collegium
from collegium.search.kernel.moments import Moments
from collegium.search.networks.chain import ensemble_chain
from collegium.search.networks.families.network_chains import branch_chain, member_widths
from collegium.search.networks.families.network_grouping import searched_groups
from collegium.search.sampling.conv import ConvSampler

DRAWS, CHUNK = 4_000, 500


def vgg(n, phi):
    """Pools between its convolutions, one before an activation, and a head behind the mean of its last map."""
    return nn.Sequential(
        nn.Conv2d(40, n, 3, padding=1), phi(), nn.MaxPool2d(2),
        nn.Conv2d(n, n, 3, padding=1), nn.AvgPool2d(3, 1, 1), phi(),
        nn.Conv2d(n, n, 3, padding=1), phi(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(n, n), phi(), nn.Linear(n, 2),
    )  # fmt: skip


def video(n, phi):
    """Convolutions of three dimensions and a pool between them."""
    return nn.Sequential(
        nn.Conv3d(60, n, (3, 1, 2), padding=(1, 0, 0), bias=False), phi(), nn.MaxPool3d((1, 2, 2), (1, 2, 1)),
        nn.Conv3d(n, n, (2, 2, 1), bias=False), phi(), nn.AdaptiveMaxPool3d((2, 1, 1)),
        nn.Conv3d(n, 2, (2, 1, 1), bias=False),
    )  # fmt: skip


def sound(n, phi):
    """Convolutions of one dimension, a pool that rounds up and one to two positions."""
    return nn.Sequential(
        nn.Conv1d(30, n, 3, stride=2, bias=False), phi(), nn.MaxPool1d(3, 2, ceil_mode=True),
        nn.Conv1d(n, n, 2, bias=False), phi(), nn.AdaptiveAvgPool1d(2), nn.Conv1d(n, 2, 2, bias=False),
    )  # fmt: skip


def grouped(n, phi):
    """Members of two inner layers: the first dense in each member, the second in two groups."""
    return nn.Sequential(
        nn.Conv2d(30, n, 1, bias=False), phi(), nn.Conv2d(n, 2 * n, 3, groups=2, bias=False), phi(),
        nn.Conv2d(2 * n, n, 1, groups=4, bias=False), phi(), nn.Conv2d(n, 2, 1, bias=False),
    )  # fmt: skip


CASES = {
    "grouped": (grouped, (30, 3, 3)),
    "vgg": (vgg, (40, 6, 6)),
    "video": (video, (60, 3, 4, 4)),
    "sound": (sound, (30, 21)),
}


def gradients(model, gains, x, generator):
    """K(x, x) of the first output over fresh weights: N(0, g / fan-in), each parameter at the rate of its variance."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weights = [name for name in shapes if name.endswith("weight")]
    fans = {name: gain / shapes[name][1:].numel() for name, gain in zip(weights, gains, strict=True)}
    of_each = vmap(grad(lambda own: functional_call(model, own, (x,)).flatten()[0]))
    found = []
    for _ in range(DRAWS // CHUNK):
        drawn = {name: torch.zeros(CHUNK, *shape) for name, shape in shapes.items()}
        for name, variance in fans.items():
            drawn[name].normal_(generator=generator).mul_(variance**0.5)
        own = of_each(drawn)
        found.append(sum(fans.get(name, 1.0) * own[name].flatten(1).square().sum(1) for name in own))
    return torch.cat(found).double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n", "phi"),
    [("vgg", 4, nn.ReLU), ("vgg", 4, nn.GELU), ("vgg", 12, nn.GELU), ("video", 3, nn.GELU), ("video", 8, nn.ReLU),
     ("grouped", 8, nn.GELU), ("sound", 3, nn.ReLU), ("sound", 9, nn.GELU)],
)  # fmt: skip
def test_the_kernel_of_a_module_with_pools_is_that_of_plain_gradients(name, n, phi):
    make, shape = CASES[name]
    model = make(n, phi)
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(1, *shape, generator=generator)
    ((branch,),) = searched_groups(collegium.describe(model, x))
    chain = ensemble_chain(branch_chain(branch), member_widths(branch), branch.multiplicity)
    assert chain is not None
    flat = x[0].flatten(1).double()
    gram = (2 / len(flat) * flat.T @ flat).numpy()
    sampled = Moments.of(ConvSampler(chain, "unit", gram).draw(20_000, generator).numpy()).estimate()
    plain = Moments.of(gradients(model, chain.gains, x, generator).numpy()).estimate()
    spread = plain.mean * math.sqrt(plain.ratio - 1) / math.sqrt(DRAWS)
    assert abs(plain.mean - sampled.mean) < 3 * spread
    assert abs(plain.log_ratio - sampled.log_ratio) < 3 * math.hypot(plain.standard_error, sampled.standard_error)
