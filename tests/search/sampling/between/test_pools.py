"""Pools of a sampled chain: values and gradients are those of PyTorch's, on whole maps and on windows of them."""

from __future__ import annotations

import pytest
import torch

from collegium.search.kernel.receptive_field import layer_windows
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.networks.pooling import PoolAxis, Pooling
from collegium.search.sampling.between.pools import between
from collegium.search.sampling.reference import PoolModule, module_of_activation

A = PoolAxis
POOLS = {
    "halved": (Pooling("max", (A(2, 2), A(2, 2))), None),
    "overlapping": (Pooling("max", (A(3, 2, 1), A(3, 1, 1))), None),
    "dilated": (Pooling("max", (A(2, 1, 1, 2), A(3, 2, 1, 1))), None),
    "rounded up": (Pooling("max", (A(3, 2, 0, 1, True), A(2, 3, 1, 1, True))), None),
    "mean": (Pooling("average", (A(2, 2), A(3, 1))), None),
    "padded mean": (Pooling("average", (A(3, 2, 1, 1, True), A(2, 3, 1, 1, True))), None),
    "mean without padding": (Pooling("average", (A(3, 2, 1), A(3, 1, 1)), count_padding=False), None),
    "global": (Pooling("average", (A(output=1), A(output=1))), None),
    "adaptive": (Pooling("average", (A(output=3), A(output=5))), None),
    "adaptive maximum": (Pooling("max", (A(output=4), A(output=2))), None),
    "solid": (Pooling("max", (A(2, 2), A(3, 2, 1), A(1, 1))), 5),
    "solid mean": (Pooling("average", (A(3, 1, 1), A(2, 2), A(3, 2))), 5),
}


@pytest.mark.parametrize("early", [0, 1])
@pytest.mark.parametrize("name", POOLS)
def test_values_and_gradients_are_those_of_pytorch(name, early):
    pool, depth = POOLS[name]
    layer = WeightLayer("conv", 4, "gelu", pools=(pool,), early=early)
    chain = Chain(3, 7, 8, (layer, WeightLayer("conv", 1, "linear")), (), depth=depth)
    steps = between(layer, layer_windows(chain, "pooled")[0], torch.device("cpu"), torch.float64)
    x = torch.randn(2, 2, *chain.extents, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    expected = PoolModule(pool)(x.flatten(0, 1).movedim(-1, 1)).movedim(1, -1).unflatten(0, (2, 2))
    expected = module_of_activation(layer.phi)(expected) if early else expected
    found = x.detach()
    for step in steps:
        found = step.forward(found)
    torch.testing.assert_close(found, expected.detach())
    gradient = torch.randn_like(found)
    back = gradient
    for step in reversed(steps):
        back = step.backward(back)
    torch.testing.assert_close(back, *torch.autograd.grad(expected, x, gradient))


def test_a_window_gives_what_the_whole_map_gives_there():
    """A unit at the middle of a map of 3 × 3 depends on a part of the map that is pooled, cut at no window's start."""
    pools = (Pooling("max", (A(3, 2, 1), A(3, 2, 1))), Pooling("average", (A(3, 1, 1), A(2, 1))))
    layer = WeightLayer("conv", 4, pools=pools)
    chain = Chain(3, 16, 18, (layer, WeightLayer("conv", 1, "linear")), ())
    whole, part = (layer_windows(chain, entry)[0] for entry in ("pooled", "unit"))
    assert part.computed.positions < whole.computed.positions
    x = torch.randn(1, 1, 16, 18, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for frame in (whole, part):
        ends = [slice(a, a + n) for a, n in zip(frame.computed.starts, frame.computed.sizes, strict=True)]
        found = x[(slice(None), slice(None), *ends)]
        for step in between(layer, frame, torch.device("cpu"), torch.float64):
            found = step.forward(found)
        results.append(found)
    top, left = part.pooled[-1].starts
    torch.testing.assert_close(results[1], results[0][:, :, top : top + 1, left : left + 1])


def test_layers_without_pools_have_nothing_behind_them():
    chain = Chain(3, 4, 4, (WeightLayer("conv", 4), WeightLayer("conv", 1, "linear")), ())
    assert between(chain.layers[0], layer_windows(chain, "unit")[0], torch.device("cpu"), torch.float32) == []
