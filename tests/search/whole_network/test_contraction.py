"""Products of weight gradients by contraction are those of the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from collegium.search.whole_network.contraction import Contraction, choose, contractible, product


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 8, 1, bias=False), (3, 6, 4, 5)),
        (nn.Conv2d(6, 8, 1, stride=2), (3, 6, 5, 4)),
        (nn.Conv2d(6, 8, 3, padding=1), (2, 6, 4, 5)),
        (nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), (2, 6, 5, 5)),
        (nn.Conv2d(6, 6, (3, 1), padding=(1, 0), dilation=(2, 1), groups=6), (2, 6, 7, 3)),
        (nn.Conv2d(6, 8, 1, padding=1), (2, 6, 3, 3)),
        (nn.Linear(6, 4), (5, 6)),
        (nn.Linear(6, 4), (2, 3, 6)),
    ],
)
def test_a_product_is_that_of_the_gradients(layer, shape):
    torch.manual_seed(0)
    contraction = Contraction(layer, "weight")
    x = torch.randn(shape, requires_grad=True)
    output = layer(x)
    found, expected = [], []
    for _ in range(2):
        cotangent = torch.randn_like(output)
        gradient, _ = torch.autograd.grad(output, [layer.weight, x], cotangent, retain_graph=True)
        expected.append(gradient.flatten())
        found.append((contraction.columns, contraction.delta))
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert float(product(found[i], found[j])) == pytest.approx(float(expected[i] @ expected[j]), rel=1e-4)


class Twice(nn.Module):
    """One layer that is called twice, one that is not called, and a large one on few positions."""

    def __init__(self) -> None:
        super().__init__()
        self.repeated = nn.Linear(64, 64)
        self.unused = nn.Linear(64, 64)
        self.once = nn.Linear(64, 64)

    def forward(self, x):
        return self.once(self.repeated(self.repeated(x)))


def test_layers_that_are_called_once_on_few_positions_are_chosen():
    module = Twice()
    chosen = choose(module, lambda: module(torch.randn(4, 64)), inputs=2)
    assert [each.name for each in chosen] == ["once.weight"]
    many = Twice()
    assert choose(many, lambda: many(torch.randn(4000, 64)), inputs=2) == []
    assert not any(layer._forward_hooks for layer in many.modules())


def test_a_change_in_place_after_the_layer_does_not_change_its_delta():
    layer = nn.Linear(3, 3)
    contraction = Contraction(layer, "weight")
    x = torch.randn(2, 3, requires_grad=True)
    y = nn.ReLU(inplace=True)(layer(x)).sum()
    gradient, _ = torch.autograd.grad(y, [layer.weight, x])
    here = (contraction.columns, contraction.delta)
    assert float(product(here, here)) == pytest.approx(float(gradient.square().sum()), rel=1e-4)


def test_layers_that_compute_something_else_are_left_alone():
    class Halved(nn.Linear):
        def forward(self, input):
            return super().forward(input) / 2

    assert not contractible(Halved(2, 2))
    assert not contractible(nn.Conv2d(2, 2, 3, padding="same"))
    assert not contractible(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
    assert not contractible(nn.ReLU())
    assert contractible(nn.Conv2d(2, 2, 3, padding=1))
