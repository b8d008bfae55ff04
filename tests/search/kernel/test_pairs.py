"""The recursion of pairs against E[K] and E[K²] as sums over every pattern of gates and a quadrature of the weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.kernel.closed_form import has_closed_form, log_moment_ratio, log_moment_ratios, mean
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.families.mlp import mlp_chain

#: Gauss–Hermite points of a standard Gaussian: exact up to the fifth power, and K² has the fourth of each weight.
#: Slope below zero of leaky rectifiers.
LEAK = -0.4
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)


def chain_of(activations: tuple[str, ...], bias: bool) -> Chain:
    slopes = [LEAK if kind == "leaky_relu" else None for kind in activations]
    layers = tuple(
        WeightLayer("dense", Free(index), kind, parameter=slope)
        for index, (kind, slope) in enumerate(zip(activations, slopes, strict=True))
    )
    names = tuple(f"n{index}" for index in range(len(activations)))
    return Chain(4, 1, 1, (*layers, WeightLayer("dense", 1, "linear")), names, bias)


def brute_force(chain: Chain, widths: tuple[int, ...], square: float) -> tuple[float, float]:
    """E[K] and E[K²] at an input of this mean square; gates are open with probability ½, as weights may be negated."""
    sizes = (1, *widths, 1)
    shapes = [(above, below) for below, above in itertools.pairwise(sizes)]
    count = sum(math.prod(shape) for shape in shapes)
    grid = np.stack(np.meshgrid(*[NODES] * count, indexing="ij"), -1).reshape(-1, count)
    weight = np.prod(np.stack(np.meshgrid(*[WEIGHTS] * count, indexing="ij"), -1).reshape(-1, count), axis=1)
    weight /= weight.sum()
    parts = np.split(grid, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
    matrices = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    rectified = [width * (layer.activation != "linear") for width, layer in zip(widths, chain.layers, strict=False)]
    first = second = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=sum(rectified)):
        kernel = _kernel(chain, widths, square, matrices, list(bits))
        first += (weight * kernel).sum() / 2 ** len(bits)
        second += (weight * kernel**2).sum() / 2 ** len(bits)
    return first, second


def _kernel(chain: Chain, widths: tuple[int, ...], square: float, matrices: list[np.ndarray], bits: list[float]):
    activation, alive, gates, scales, inputs = np.full((len(matrices[0]), 1), math.sqrt(square)), True, [], [], []
    for index, (layer, matrix) in enumerate(zip(chain.layers, matrices, strict=True)):
        # the first layer reads four inputs: z is their weights' image, so one weight of their root mean square does
        below = {"relu": 0.0, "leaky_relu": LEAK, "linear": 1.0}[layer.activation]
        scales.append(2 / (1 + below**2) / (1 if index == 0 else matrix.shape[2]))
        inputs.append(activation)
        gate = np.ones(matrix.shape[1])
        if layer.activation != "linear":
            gate = below + (1 - below) * np.array([bits.pop() for _ in gate]) * alive
            alive = alive and bool(gate.any())
        gates.append(gate)
        activation = gate * math.sqrt(scales[-1]) * np.einsum("soi,si->so", matrix, activation)
    delta, kernel = np.ones((len(matrices[0]), 1)), 0.0
    for layer in reversed(range(len(matrices))):
        delta = delta * gates[layer]
        kernel = kernel + (scales[layer] * (inputs[layer] ** 2).sum(1) + chain.bias) * (delta**2).sum(1)
        delta = math.sqrt(scales[layer]) * np.einsum("soi,so->si", matrices[layer], delta)
    return kernel


def agrees(chain: Chain, widths: tuple[int, ...], square: float) -> None:
    first, second = brute_force(chain, widths, square)
    gram = [[2 * square]]
    assert mean(chain, widths, gram) == pytest.approx(first, rel=1e-10)
    assert math.exp(log_moment_ratio(chain, widths, gram)) == pytest.approx(second / first**2, rel=1e-10)


TINY = [(1,), (3,), (1, 1), (2, 1), (1, 2), (1, 1, 1), (2, 2)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", TINY, ids=str)
def test_rectified_networks_of_a_few_units(widths, bias):
    agrees(mlp_chain(4, len(widths), 1, bias), widths, 1.0)


@given(
    layers=st.sampled_from(
        [
            layers
            for widths in ((1,), (2,), (1, 1), (2, 1), (1, 2), (1, 1, 1))
            for layers in itertools.product(*[[(width, kind) for kind in ("relu", "linear")] for width in widths])
        ]
    ),
    bias=st.booleans(),
    square=st.floats(0.01, 100),
)
@settings(deadline=None, max_examples=60)
def test_any_activations_and_any_size_of_the_inputs(layers, bias, square):
    widths, activations = zip(*layers, strict=True)
    agrees(chain_of(activations, bias), widths, square)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(1,), (3,), (2, 1), (1, 2), (1, 1, 1)], ids=str)
def test_leaky_rectifiers(widths, bias):
    agrees(chain_of(("leaky_relu",) * len(widths), bias), widths, 0.7)


def test_leaky_rectifiers_mix_with_others_where_there_are_no_biases():
    for activations in (("leaky_relu", "relu"), ("relu", "leaky_relu"), ("linear", "leaky_relu")):
        agrees(chain_of(activations, False), (1, 2), 1.0)
    assert has_closed_form(chain_of(("linear", "leaky_relu"), True), "unit")
    assert not has_closed_form(chain_of(("relu", "leaky_relu"), True), "unit")


def test_biases_of_one_hidden_layer_agree_with_the_calculation_by_hand():
    # K = 1 + (2q χ²_k + (2q + 1) χ'²_k) / n, with k open units of n
    for n, q in ((1, 1.0), (4, 0.3), (30, 2.0)):
        k = np.arange(n + 1)
        chance = np.array([math.comb(n, i) for i in k]) / 2**n
        up, down = 2 * q / n, (2 * q + 1) / n
        first = chance @ (1 + (up + down) * k)
        second = chance @ (1 + 2 * (up + down) * k + (up**2 + down**2) * (k**2 + 2 * k) + 2 * up * down * k**2)
        chain = mlp_chain(8, 1, 1, bias=True)
        assert mean(chain, (n,), [[2 * q]]) == pytest.approx(first, rel=1e-12)
        assert log_moment_ratio(chain, (n,), [[2 * q]]) == pytest.approx(math.log(second / first**2), rel=1e-11)


def test_biases_lower_the_variance_of_three_layers_of_twenty():
    with_biases, without = (log_moment_ratio(mlp_chain(64, 3, 1, bias), (20,) * 3) for bias in (True, False))
    assert (without, with_biases) == pytest.approx((0.47445, 0.30846), abs=1e-5)
    assert (math.expm1(without), math.expm1(with_biases)) == pytest.approx((0.60713, 0.36133), abs=1e-5)


def test_large_inputs_outweigh_the_biases_and_small_ones_do_not():
    biased, plain = (mlp_chain(8, 3, 1, bias) for bias in (True, False))
    widths = (5, 7, 4)
    assert log_moment_ratio(biased, widths, [[1e9]]) == pytest.approx(log_moment_ratio(plain, widths), rel=1e-6)
    small = [log_moment_ratio(biased, widths, [[size]]) for size in (1e-12, 1.0, 2.0)]
    assert len(set(small)) == 3
    # without inputs the biases are alone: the output's counts 1, a hidden one's |δ|² as any other's
    assert mean(biased, (1000,) * 3, [[1e-12]]) == pytest.approx(2.5, rel=1e-6)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.booleans(), st.floats(0.1, 10))
def test_many_at_once_are_the_same_as_one_by_one(widths, bias, square):
    chain, table = mlp_chain(8, len(widths), 1, bias), [widths, widths[::-1], [1] * len(widths)]
    together = log_moment_ratios(chain, table, [[square]])
    assert together == pytest.approx([log_moment_ratio(chain, row, [[square]]) for row in table], rel=1e-12)


@given(st.lists(st.integers(1, 2000), min_size=2, max_size=5), st.data())
def test_a_wider_layer_lowers_the_variance_with_biases_too(widths, data):
    position = data.draw(st.integers(0, len(widths) - 1))
    wider = [width + (index == position) for index, width in enumerate(widths)]
    chain = mlp_chain(8, len(widths), 1, bias=True)
    assert 0 < log_moment_ratio(chain, wider) < log_moment_ratio(chain, widths)


def test_a_single_biased_layer_is_constant():
    chain = Chain(8, 1, 1, (WeightLayer("dense", 3, "linear"),), (), True)
    assert log_moment_ratio(chain, ()) == 0
    assert mean(chain, (), [[2.0]]) == 2.0


def test_biases_of_a_layer_that_shares_its_weights_have_no_closed_form(bottleneck):
    biased = Chain(**{**vars(bottleneck), "bias": True})
    assert not has_closed_form(biased, "unit")
    with pytest.raises(ValueError, match="no closed form"):
        log_moment_ratio(biased, (4,), np.eye(9))
    assert has_closed_form(mlp_chain(8, 2, 1, bias=True), "unit")
