"""Windows of pools are those of PyTorch, along each axis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.networks.pooling import PoolAxis, Pooling


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_maxima_and_means_over_the_windows_are_those_of_pytorch(data):
    kernel, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    dilation = data.draw(st.integers(1, 2))
    padding, ceil = data.draw(st.integers(0, kernel // 2)), data.draw(st.booleans())
    size = data.draw(st.integers(dilation * (kernel - 1) + 1, 20))
    x = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    axis = PoolAxis(kernel, stride, padding, dilation, ceil)
    found = [max(x[i] for i in axis.reads(index, size)) for index in range(axis.output_size(size))]
    expected = functional.max_pool1d(x[None, None], kernel, stride, padding, dilation, ceil_mode=ceil)
    assert found == expected.flatten().tolist()
    if dilation == 1:
        for counted in (True, False):
            sums = [sum(x[i] for i in axis.reads(index, size)) for index in range(len(found))]
            divisors = [axis.divisor(index, size, count_padding=counted) for index in range(len(found))]
            means = functional.avg_pool1d(x[None, None], kernel, stride, padding, ceil, counted).flatten()
            assert [a / b for a, b in zip(sums, divisors, strict=True)] == pytest.approx(means.tolist())


@given(st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_adaptive_windows_are_those_of_pytorch(size, output):
    x = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    axis = PoolAxis(output=output)
    read = [axis.reads(index, size) for index in range(output)]
    assert [max(x[i] for i in each) for each in read] == functional.adaptive_max_pool1d(x[None], output)[0].tolist()
    divisors = [axis.divisor(index, size, count_padding=True) for index in range(output)]
    means = [sum(x[i] for i in each) / by for each, by in zip(read, divisors, strict=True)]
    assert means == pytest.approx(functional.adaptive_avg_pool1d(x[None], output)[0].tolist())


def test_sizes_and_counts_of_a_chain_are_those_behind_its_pools():
    halved = Pooling("max", (PoolAxis(2, 2), PoolAxis(2, 2)))
    layers = WeightLayer("conv", 4, kernel=3, padding=1, pools=(halved,)), WeightLayer("dense", 5, "linear")
    chain = Chain(3, 8, 6, layers, ())
    assert chain.shapes(()) == [(3, 8, 6), (4, 4, 3), (5, 1, 1)]
    assert chain.fan_ins(()) == [27, 48]
    assert chain.flops(()) == 27 * 4 * 48 + 48 * 5
    assert chain.pooled
    solid = Chain(3, 8, 6, (WeightLayer("conv", 4, kernel=(3, 1, 3), stride=(2, 1, 1)), WeightLayer("dense", 5)), (),
                  depth=7)  # fmt: skip
    assert solid.shapes(()) == [(3, 7, 8, 6), (4, 3, 8, 4), (5, 1, 1, 1)]
    assert solid.fan_ins(()) == [27, 384]


def test_pools_that_do_not_fit_a_chain_are_refused():
    halved = Pooling("max", (PoolAxis(2, 2), PoolAxis(2, 2)))
    last = WeightLayer("conv", 4, "linear", pools=(halved,))
    with pytest.raises(ValueError, match="no pool follows the last layer"):
        Chain(3, 8, 6, (last,), ())
    with pytest.raises(ValueError, match="along each of the 3 axes"):
        Chain(3, 8, 6, (last, WeightLayer("conv", 4)), (), depth=5)
    with pytest.raises(ValueError, match="nothing but padding"):
        PoolAxis(2, 1, 1, 2).reads(0, 1)
