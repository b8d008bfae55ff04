"""The grouped chain is the ensemble: its counts, and the law of its kernel."""

from __future__ import annotations

import math

import pytest
import torch

from collegium.search.kernel.closed_form import log_moment_ratio
from collegium.search.kernel.inputs import KernelInputs
from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.chain import Chain, Free, WeightLayer, ensemble_chain
from collegium.search.sampling.sampler import build_sampler


def kernels(chain, count=20_000):
    point = KernelPoint.of(chain, (), "unit", KernelInputs())
    return build_sampler(point).draw(count, torch.Generator().manual_seed(3)).double()


def test_every_member_has_its_own_weights(bottleneck, mlp):
    for chain, widths in ((bottleneck, (6,)), (mlp(3), (5, 4, 7))):
        built = ensemble_chain(chain, widths, 3)
        assert built.names == ()
        assert built.parameters(()) == 3 * chain.parameters(widths)
        assert ensemble_chain(chain, widths, 1).parameters(()) == chain.parameters(widths)


@pytest.mark.parametrize("multiplicity", [1, 4])
def test_its_kernel_has_the_members_mean_and_an_mth_of_their_variance(mlp, multiplicity):
    chain, widths = mlp(3), (12, 9, 14)
    drawn = kernels(ensemble_chain(chain, widths, multiplicity))
    ratio = drawn.square().mean() / drawn.mean() ** 2
    predicted = math.expm1(log_moment_ratio(chain, widths)) / multiplicity
    assert float(ratio - 1) == pytest.approx(predicted, rel=0.1)
    one = kernels(chain.at(widths))
    assert float(drawn.mean()) == pytest.approx(float(one.mean()), rel=0.03)


def test_a_dense_layer_over_a_map_becomes_a_convolution():
    layers = (
        WeightLayer("conv", Free(0), kernel=3, padding=1),
        WeightLayer("dense", Free(1)),
        WeightLayer("dense", 2, "linear"),
    )
    chain = Chain(3, 4, 4, layers, ("a", "b"))
    built = ensemble_chain(chain, (5, 6), 2)
    assert [layer.groups for layer in built.layers] == [1, 2, 1]
    assert built.layers[1].kernel == 4
    assert built.parameters(()) == 2 * chain.parameters((5, 6))
    oblong = Chain(3, 4, 2, layers, ("a", "b"))
    assert ensemble_chain(oblong, (5, 6), 2) is None


def test_existing_groups_multiply_and_shared_ends_are_refused():
    middle = WeightLayer("conv", 6, groups=3)
    chain = Chain(4, 2, 2, (WeightLayer("conv", 9), middle, WeightLayer("conv", 4, "linear")), ())
    assert ensemble_chain(chain, (), 2).layers[1].groups == 6
    first = Chain(4, 2, 2, (WeightLayer("conv", 8, groups=2), WeightLayer("conv", 4, "linear")), ())
    assert ensemble_chain(first, (), 2) is None
