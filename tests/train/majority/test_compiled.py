"""Majority kernels under torch.compile: one graph for all steps, another p in each."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

from collegium import collapse, expand, fuse
from collegium.train.majority.kernel import majority_clocks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]  # inductor's imports


def model():
    torch.manual_seed(0)
    return expand(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 3, seed=0)


def train(network, parameters, steps=3, **options):
    optimizer = torch.optim.SGD(parameters, lr=0.1, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(
            network(torch.randn(5, 6, generator=generator)), torch.tensor([0, 1, 2, 0, 1])
        ).backward()
        optimizer.step()


@pytest.mark.parametrize(("backend", "options"), [("aot_eager", {}), ("inductor", {"fused": True})])
def test_compiled_training_takes_the_same_steps(backend, options):
    torch._dynamo.reset()
    plain = model()
    compiled = copy.deepcopy(plain)
    counter = CompileCounterWithBackend(backend)
    train(plain, plain.parameters(), **options)
    train(torch.compile(compiled, backend=counter), compiled.parameters(), **options)
    for compiled_parameter, plain_parameter in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(compiled_parameter, plain_parameter)
    assert counter.frame_count == 1
    x = torch.randn(2, 6)
    torch.testing.assert_close(collapse(compiled)(x), collapse(plain)(x))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_compiled_step_of_the_optimizer_is_its_step(fused, decay):
    """``torch.compile(optimizer.step)``: what is done before and after it is no part of its graph."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    models = [expand(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), 3, seed=0)]
    models.append(copy.deepcopy(models[0]))
    optimizers = [torch.optim.Adam(model.parameters(), lr=torch.tensor(0.05)) for model in models]
    if fused:
        fuse(optimizers[1], models[1])
    steps = [optimizers[0].step, torch.compile(lambda: optimizers[1].step(), backend="eager")]
    for number in range(4):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
        for model, optimizer, step in zip(models, optimizers, steps, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            step()
            optimizer.param_groups[0]["lr"].mul_(decay)
            assert optimizer.state[model[0].parametrizations.weight.original]["step"] == number + 1
            assert majority_clocks(model)[0].step == number + 1
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
