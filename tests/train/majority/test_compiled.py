"""Majority kernels under torch.compile: one graph for all steps, another p in each."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

from collegium import collapse, expand

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


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("options", [{}, {"fused": True}])
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
