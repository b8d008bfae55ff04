"""Draws of whole networks' kernels are those of plain differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from collegium.search.kernel.closed_form import mean
from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.sampling.reference import empirical_kernel
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.initialization import Initialization
from collegium.search.whole_network.inputs.images import gaussian_fields
from collegium.search.whole_network.kernel import NetworkKernel, _seed
from collegium.search.whole_network.spec import NetworkKernelSpec


class Logit(nn.Module):
    def __init__(self, module: nn.Module, output: int) -> None:
        super().__init__()
        self.module, self.output = module, output

    def forward(self, x):
        return self.module(x)[:, self.output]


def built(candidate, seed, index):
    """The module at the parameters of one draw of the standard parameterization."""
    module = candidate.build()
    drawn = Initialization(candidate.build, by_fan_in=False, device="cpu").draw(_seed(seed, index))
    module.load_state_dict(drawn, strict=False)
    return module.train()


def test_an_mlps_draw_is_its_empirical_kernel(mlps):
    spec = NetworkKernelSpec(images=4, inputs=3, outputs=2)
    batch = gaussian_fields(4, (6, 1, 1), 0.0, seed=0)
    for candidate in mlps:
        grams = NetworkKernel(candidate, spec, batch, "cpu").draw(7, [5])
        module = built(candidate, 7, 5)
        for output in range(2):
            expected = empirical_kernel(Logit(module, output), torch.from_numpy(batch[:3]))
            assert grams[0, output] == pytest.approx(expected.numpy(), rel=1e-4)


def test_with_batch_norms_an_entry_is_a_training_batchs(residual_network):
    candidate = Candidate("baseline", residual_network, (4, 4), 3)
    spec = NetworkKernelSpec(images=5, inputs=2)
    batch = gaussian_fields(5, (3, 16, 16), 0.9, seed=0)
    kernel = NetworkKernel(candidate, spec, batch, "cpu")
    assert kernel.normed
    module = built(candidate, 0, 2)
    logits = module(torch.from_numpy(batch))
    gradients = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(logits[i, 0], list(module.parameters()), retain_graph=True)]
        )
        for i in range(2)
    ]
    expected = [[float(a @ b) for b in gradients] for a in gradients]
    assert kernel.draw(0, [2])[0, 0] == pytest.approx(np.array(expected), rel=2e-3)


def test_without_norms_inputs_do_not_depend_on_each_other(residual_network):
    candidate = Candidate("baseline", residual_network, (4, 4), 3)
    batch = gaussian_fields(4, (3, 8, 8), 0.9, seed=0)
    spec = NetworkKernelSpec(images=4, inputs=2, norm="none")
    kernel = NetworkKernel(candidate, spec, batch, "cpu")
    assert not kernel.normed
    swapped = NetworkKernel(candidate, spec, batch[[0, 3, 1, 2]], "cpu")
    assert kernel.draw(0, [1])[0, 0, 0, 0] == pytest.approx(swapped.draw(0, [1])[0, 0, 0, 0], rel=1e-5)


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_draws_are_the_same_alone_and_together(mlps, residual_network, parameterization):
    spec = NetworkKernelSpec(images=2, outputs=2, parameterization=parameterization)
    for candidate, shape in ((mlps[1], (6, 1, 1)), (Candidate("b", residual_network, (2, 2), 2), (3, 8, 8))):
        kernel = NetworkKernel(candidate, spec, gaussian_fields(2, shape, 0.5, seed=0), "cpu")
        together = kernel.draw(1, [0, 1, 2])
        alone = np.concatenate([kernel.draw(1, [index]) for index in (0, 1, 2)])
        assert together == pytest.approx(alone, rel=2e-3)
        assert together[0] != pytest.approx(together[1], rel=1e-2)


def test_networks_that_differ_in_their_branches_share_the_rest(residual_network):
    one, other = (
        Initialization(Candidate("a", residual_network, (4, 4), m).build, by_fan_in=False, device="cpu").draw(3)
        for m in (1, 2)
    )
    for name, value in one.items():
        if value.shape == other[name].shape:
            assert torch.equal(value, other[name])
    assert {name for name, value in one.items() if value.shape != other[name].shape} == {
        f"layer{stage}.0.{layer}"
        for stage in (1, 2)
        for layer in (
            *("conv1.weight", "conv2.weight", "conv3.weight"),
            *(f"bn{norm}.{part}" for norm in (1, 2) for part in ("weight", "bias")),
        )
    }


def test_ntk_rates_give_the_closed_forms_mean(mlp_network):
    batch = gaussian_fields(2, (6, 1, 1), 0.0, seed=0)
    spec = NetworkKernelSpec(images=2, inputs=2, outputs=3, parameterization="ntk")
    kernel = NetworkKernel(Candidate("primal", mlp_network, (12, 12), 3), spec, batch, "cpu")
    entries = np.diagonal(kernel.draw(0, range(400)), axis1=2, axis2=3)
    error = entries.mean((1, 2)).std() / 20
    assert entries.mean() == pytest.approx(mean(mlp_network.chain, (12, 12)), abs=4 * error)


def test_biases_have_unit_rate():
    network = build_network(MlpBaseline(family="mlp", inputs=4, hidden=(3,), outputs=1, bias=True))
    candidate = Candidate("baseline", network, (3,), 1)
    spec = NetworkKernelSpec(images=1, inputs=1, parameterization="ntk")
    batch = gaussian_fields(1, (4, 1, 1), 0.0, seed=0)
    module = built(candidate, 0, 0)
    first, last = module.layers
    logit = module(torch.from_numpy(batch)).sum()
    w0, b0, w1, b1 = torch.autograd.grad(logit, [first.weight, first.bias, last.weight, last.bias])
    expected = 2 / 4 * w0.square().sum() + b0.square().sum() + w1.square().sum() / 3 + b1.square().sum()
    assert NetworkKernel(candidate, spec, batch, "cpu").draw(0, [0]).item() == pytest.approx(float(expected), rel=1e-5)


def test_a_chain_of_convolutions_is_measured_whole():
    baseline = BlockBaseline.model_validate(
        {
            "family": "block",
            "input": {"channels": 3, "height": 5, "width": 6},
            "layers": [
                {"type": "conv", "out": "n", "kernel": 3},
                {"type": "relu"},
                {"type": "conv", "out": "n", "kernel": 3},
                {"type": "relu"},
                {"type": "dense", "out": 2},
            ],
            "widths": {"n": 4},
        }
    )
    candidate = Candidate("primal", build_network(baseline), (4,), 3)
    batch = gaussian_fields(2, (3, 5, 6), 0.9, seed=0)
    grams = NetworkKernel(candidate, NetworkKernelSpec(images=2, outputs=2), batch, "cpu").draw(0, [3])
    expected = empirical_kernel(Logit(built(candidate, 0, 3), 1), torch.from_numpy(batch))
    assert grams[0, 1] == pytest.approx(expected.numpy(), rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_recorded_draw_is_what_the_processor_computes_at_the_same_weights(residual_network, norm):
    candidate = Candidate("baseline", residual_network, (4, 4), 3)
    spec = NetworkKernelSpec(images=5, inputs=2, norm=norm, parameterization="ntk")
    batch = gaussian_fields(5, (3, 16, 16), 0.9, seed=0)
    recorded = NetworkKernel(candidate, spec, batch, "cuda")
    recorded.draw(0, [0])
    gram = recorded.draw(0, [7])[0]
    plain = NetworkKernel(candidate, spec, batch, "cpu")
    for mine, other in zip(plain._module.parameters(), recorded._module.parameters(), strict=True):
        mine.data.copy_(other.data)
    assert gram == pytest.approx(plain._contracted().detach().double().numpy(), rel=1e-2)
