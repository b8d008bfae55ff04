"""Chains that several tests of the search study."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from collegium.search.networks.chain import Chain, Free, WeightLayer


@pytest.fixture(scope="session")
def mlp() -> Callable[[int], Chain]:
    """``mlp(depth)``: 784 inputs, ``depth`` hidden rectified layers of free width, one output."""

    def build(depth: int) -> Chain:
        hidden = tuple(WeightLayer("dense", Free(index)) for index in range(depth))
        return Chain(784, 1, 1, (*hidden, WeightLayer("dense", 1, "linear")), tuple(f"n{i}" for i in range(depth)))

    return build


@pytest.fixture(scope="session")
def bottleneck() -> Chain:
    """1×1 → 3×3 → 1×1, 256 channels in and out, one tied width."""
    layers = (
        WeightLayer("conv", Free(0)),
        WeightLayer("conv", Free(0), kernel=3, padding=1),
        WeightLayer("conv", 256, "linear"),
    )
    return Chain(256, 8, 8, layers, ("n",))


@pytest.fixture(scope="session")
def basic() -> Chain:
    """3×3 → 3×3, 64 channels in and out."""
    layers = (WeightLayer("conv", Free(0), kernel=3, padding=1), WeightLayer("conv", 64, "linear", 3, padding=1))
    return Chain(64, 8, 8, layers, ("n",))


@pytest.fixture(scope="session")
def double() -> Chain:
    """1×1 → 3×3 → 3×3 → 1×1: two layers share their weights, so there is no closed form."""
    layers = (
        WeightLayer("conv", Free(0)),
        WeightLayer("conv", Free(0), kernel=3, padding=1),
        WeightLayer("conv", Free(0), kernel=3, padding=1),
        WeightLayer("conv", 16, "linear"),
    )
    return Chain(16, 8, 8, layers, ("n",))
