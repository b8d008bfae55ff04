"""The kernel of ensembles as they are built for training, by plain autograd, against what the search says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collegium.search.kernel.closed_form import log_moment_ratio, mean
from collegium.search.kernel.inputs import KernelInputs
from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.build import build_network
from collegium.search.networks.chain import ensemble_chain
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.sampling.sampler import build_sampler
from collegium.train.models.ensembles import HeLinear, MemberLinear, MlpEnsemble

INPUTS, HIDDEN = 9, (6, 5)


def network(bias: bool):
    return build_network(MlpBaseline(family="mlp", inputs=INPUTS, hidden=HIDDEN, outputs=1, bias=bias))


def module_kernel(module: MlpEnsemble, x: Tensor) -> float:
    """Σ (∂F/∂θ)² in the NTK parameterization: weights are their deviation times standard normals, biases are plain.

    The module holds the products, so a weight's squared derivative counts by its variance at initialization.
    """
    module.zero_grad()
    module(x[None]).sum().backward()
    kernel = 0.0
    for layer in module.layers:
        match layer:
            case MemberLinear():
                variance = layer.gain**2 / layer.weight.shape[1]
            case HeLinear():
                variance = layer.gain**2 * layer.members / layer.in_features
            case _:
                raise AssertionError(layer)
        kernel += variance * layer.weight.grad.square().sum().item()
        kernel += 0.0 if layer.bias is None else layer.bias.grad.square().sum().item()
    return kernel


def module_kernels(members: int, bias: bool, x: Tensor, count: int) -> np.ndarray:
    torch.manual_seed(0)
    module = MlpEnsemble(**network(bias).arguments(HIDDEN, members))
    found = []
    for _ in range(count):
        for layer in module.modules():
            if isinstance(layer, HeLinear | MemberLinear):
                layer.reset_parameters()
        found.append(module_kernel(module, x))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(("members", "bias", "square"), [(1, True, 0.4), (3, False, 0.4), (3, True, 1.0)])
def test_a_built_mlp_ensemble_has_the_mean_and_the_variance_divided_by_its_members(members, bias, square):
    x = torch.linspace(-1, 2, INPUTS)
    x *= (square / x.square().mean()).sqrt()
    found = module_kernels(members, bias, x, 5_000)
    chain, gram = network(bias).chain, [[2 * square]]
    expected = mean(chain, HIDDEN, gram)
    variance = np.expm1(log_moment_ratio(chain, HIDDEN, gram)) / members
    assert abs(found.mean() - expected) < 3.5 * found.std() / len(found) ** 0.5
    relative = (found / expected - 1) ** 2
    assert abs(relative.mean() - variance) < 3.5 * relative.std() / len(found) ** 0.5


@pytest.mark.parametrize("bias", [False, True])
def test_the_built_ensembles_kernel_is_the_mean_of_its_members(bias):
    """Exactly, draw by draw; the output's bias is one, of derivative 1, as the mean of the members' own would be."""
    torch.manual_seed(1)
    module, x = MlpEnsemble(**network(bias).arguments(HIDDEN, 3)), torch.randn(INPUTS)
    kernels = []
    for j in range(3):
        one = MlpEnsemble(**network(bias).arguments(HIDDEN, 1))
        n = HIDDEN[0]
        one.layers[0].weight.data = module.layers[0].weight.data[j * n : (j + 1) * n]
        one.layers[1].weight.data = module.layers[1].weight.data[j].T
        one.layers[2].weight.data = module.layers[2].weight.data[:, j * HIDDEN[1] : (j + 1) * HIDDEN[1]]
        kernels.append(module_kernel(one, x))
    assert module_kernel(module, x) == pytest.approx(np.mean(kernels), rel=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_the_ensembles_chain_has_the_same_law_as_its_members_divided(bias):
    chain = network(bias).chain
    built = ensemble_chain(chain, HIDDEN, 3)
    assert built is not None
    assert built.bias == bias
    sampler = build_sampler(KernelPoint.of(built, (), "unit", KernelInputs()))
    draws = sampler.draw(30_000, torch.Generator().manual_seed(0)).double().numpy()
    expected = mean(chain, HIDDEN)
    relative = (draws / expected - 1) ** 2
    assert abs(draws.mean() - expected) < 3.5 * draws.std() / len(draws) ** 0.5
    variance = np.expm1(log_moment_ratio(chain, HIDDEN)) / 3
    assert abs(relative.mean() - variance) < 3.5 * relative.std() / len(draws) ** 0.5


@pytest.mark.parametrize("members", [1, 4])
def test_a_biased_ensembles_chain_has_the_parameters_that_are_counted(members):
    found = network(True)
    built = ensemble_chain(found.chain, HIDDEN, members)
    assert built is not None
    module: nn.Module = MlpEnsemble(**found.arguments(HIDDEN, members))
    count = found.count("parameters", HIDDEN, members)
    assert count == built.parameters(()) == sum(parameter.numel() for parameter in module.parameters())
