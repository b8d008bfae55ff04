"""Any elementwise activation: the samplers' draws against plain gradients of plain modules."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch

from collegium.search.kernel.closed_form import log_moment_ratio, mean
from collegium.search.kernel.inputs import KernelInputs, correlation_gram
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.activation import Activation, ActivationName
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.families.mlp import mlp_chain
from collegium.search.sampling.between import elementwise
from collegium.search.sampling.between.elementwise import activated, pulled_back
from collegium.search.sampling.conv import ConvSampler
from collegium.search.sampling.reference import inputs_with_gram, kernel_samples, module_of, module_of_activation
from collegium.search.sampling.sampler import build_sampler
from collegium.search.spec import PairSpec
from collegium.train.models import ensembles

ACTIVATIONS = [
    Activation("relu"),
    Activation("leaky_relu", 0.3),
    Activation("gelu"),
    Activation("silu"),
    Activation("tanh"),
    Activation("elu", 1.5),
    Activation("softplus"),
    Activation("relu6"),
    Activation("gelu_tanh"),
    Activation("mish"),
    Activation("hardswish"),
    Activation("sigmoid"),
    Activation("selu"),
    Activation("celu", 0.4),
    Activation("linear"),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_values_and_derivatives_are_those_of_autograd(activation):
    z = torch.linspace(-25, 25, 400, dtype=torch.float64, requires_grad=True)
    y = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = module_of_activation(activation)(z)
    (expected,) = torch.autograd.grad(a, z, y)
    torch.testing.assert_close(activated(activation, z.detach()), a.detach())
    torch.testing.assert_close(pulled_back(activation, y, z.detach(), a.detach()), expected)


def agree(chain: Chain, entry: str, gram: np.ndarray, count: int, plain_count: int, pair: float | None = None) -> None:
    """Mean and ln r by the sampler, and by gradients of the module with all its weights drawn."""
    inputs = KernelInputs(None if len(gram) == 1 else 0.7, pair=None if pair is None else PairSpec(cosine=pair))
    point = KernelPoint.of(chain, (), entry, inputs)
    drawn = build_sampler(point).draw(count, torch.Generator().manual_seed(2)).double().numpy()
    x, other = (each.float() for each in inputs_with_gram(chain, entry, gram, pair))
    other = x if pair is None else other
    module, generator = module_of(chain, (), entry), torch.Generator().manual_seed(1)
    plain = kernel_samples(module, x, other, plain_count, generator, chunk=500).double().numpy()
    one, two = Moments.of(drawn).estimate(), Moments.of(plain).estimate()
    spread = math.hypot(drawn.std() / math.sqrt(count), plain.std() / math.sqrt(plain_count))
    assert abs(one.mean - two.mean) < 3.5 * spread
    assert abs(one.log_ratio - two.log_ratio) < 3.5 * math.hypot(one.standard_error, two.standard_error)


def mlp(activation: Activation, widths: tuple[int, ...], bias: bool = False, inputs: int = 6) -> Chain:
    return mlp_chain(inputs, len(widths), 1, bias, activation).at(widths)


@pytest.mark.parametrize("widths", [(3, 5, 4), pytest.param((20, 20, 20), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_mlps_have_the_law_of_all_weights_drawn(activation, widths):
    agree(mlp(activation, widths), "unit", np.array([[2.0]]), 60_000, 8_000)


@pytest.mark.parametrize(
    "activation", [Activation("gelu"), Activation("softplus"), Activation("leaky_relu", 0.3)], ids=str
)
def test_biases_and_pairs_of_inputs(activation):
    agree(mlp(activation, (6, 8), bias=True), "unit", np.array([[2.0]]), 40_000, 6_000)
    agree(mlp(activation, (6, 8)), "unit", np.array([[2.0]]), 40_000, 6_000, pair=0.4)


def bottleneck(activation: Activation, width: int | Free) -> Chain:
    name, parameter = activation.name, activation.parameter
    names = () if isinstance(width, int) else ("n",)
    layers = (
        WeightLayer("conv", width, name, parameter=parameter),
        WeightLayer("conv", width, name, kernel=3, padding=1, parameter=parameter),
        WeightLayer("conv", 2, "linear"),
    )
    return Chain(36, 6, 6, layers, names)


def gram_of(chain: Chain, entry: str) -> np.ndarray:
    window = input_window(chain, entry)
    return correlation_gram(0.7, window.height, window.width)


@pytest.mark.parametrize("entry", ["unit", "pooled"])
@pytest.mark.parametrize("activation", ACTIVATIONS[1:7], ids=str)
def test_convolutions_have_the_law_of_all_weights_drawn(activation, entry):
    chain = bottleneck(activation, 5)
    agree(chain, entry, gram_of(chain, entry), 15_000, 4_000)


@pytest.mark.parametrize("hidden", ["weights", "law"])
@pytest.mark.parametrize("slope", [-0.5, 0.2, 0.9])
def test_leaky_rectifiers_converge_to_their_closed_form(slope, hidden):
    leaky = Activation("leaky_relu", slope)
    free = bottleneck(leaky, Free(0))
    for chain, widths, gram in (
        (mlp_chain(6, 3, 1, activation=leaky), (7, 4, 9), np.array([[2.0]])),
        (mlp_chain(6, 2, 1, bias=True, activation=leaky), (5, 3), np.array([[0.6]])),
        (free, (4,), gram_of(free, "unit")),
    ):
        draws = ConvSampler(chain.at(widths), "unit", gram, hidden=hidden).draw(
            40_000, torch.Generator().manual_seed(3)
        )
        found = Moments.of(draws.double().numpy()).estimate()
        assert abs(found.log_ratio - log_moment_ratio(chain, widths, gram)) < 3.5 * found.standard_error
        assert found.mean == pytest.approx(mean(chain, widths, gram), rel=4 * draws.std().item() / found.mean / 200)


def test_the_size_of_the_inputs_matters_to_activations_that_are_not_homogeneous():
    for activation in (Activation("tanh"), Activation("leaky_relu", 0.2)):
        found = []
        for square in (0.01, 4.0):
            draws = ConvSampler(mlp(activation, (8, 8)), "unit", [[2 * square]]).draw(
                20_000, torch.Generator().manual_seed(1)
            )
            found.append(Moments.of(draws.double().numpy()).estimate().log_ratio)
        # a small tanh is the identity, and a large one saturates
        assert (abs(found[0] - found[1]) > 0.02) is (activation.name == "tanh")


def test_stored_estimates_are_told_apart_by_the_activation():
    chains = [mlp(activation, (4, 4)) for activation in [*ACTIVATIONS, Activation("leaky_relu", 0.31)]]
    assert len({KernelPoint.of(chain, (), "unit", KernelInputs()).key for chain in chains}) == len(chains)
    point = KernelPoint.of(chains[1], (), "unit", KernelInputs())
    assert KernelPoint.model_validate(point.model_dump(mode="json")) == point


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_wide_networks_have_the_kernel_of_infinite_width(activation):
    # every layer's z is N(0, 1) there, up to the factor of a homogeneous φ, and each layer multiplies δ² by χ
    phi = module_of_activation(activation)
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64, requires_grad=True)
    a = phi(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    weight = torch.exp(-(z.detach() ** 2) / 2)
    chi = float((weight * slope**2).sum() / (weight * a.detach() ** 2).sum())
    draws = ConvSampler(mlp(activation, (2000,) * 3), "unit", [[2.0]]).draw(400, torch.Generator().manual_seed(1))
    expected = sum(chi**power for power in range(4))
    assert draws.double().mean().item() == pytest.approx(expected, rel=0.02)


def test_every_table_has_every_activation():
    names = set(get_args(ActivationName))
    assert {activation.name for activation in ACTIVATIONS} == names
    assert set(elementwise._VALUES) == set(elementwise._PULLBACKS) == set(ensembles.ACTIVATIONS) == names
