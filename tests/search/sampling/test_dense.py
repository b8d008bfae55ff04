"""Draws from the law: in distribution those of all weights drawn, and in their moments the closed form's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from collegium.search.kernel.closed_form import log_moment_ratio, mean
from collegium.search.kernel.inputs import correlation_gram
from collegium.search.kernel.moments import Moments
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.families.mlp import mlp_chain
from collegium.search.sampling.dense import DenseSampler, LayerLaw, draw_dense


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agrees(chain: Chain, widths: tuple[int, ...], gram: np.ndarray, samples: int, seed: int) -> None:
    """The sampled moments lie within three standard errors of the exact ones."""
    draws = DenseSampler(chain.at(widths), gram).draw(samples, seeded(seed)).numpy()
    estimate = Moments.of(draws).estimate()
    assert abs(estimate.log_ratio - log_moment_ratio(chain, widths, gram)) < 3 * estimate.standard_error
    assert abs(draws.mean() / mean(chain, widths, gram) - 1) < 4 * draws.std() / draws.mean() / np.sqrt(samples)


@pytest.mark.parametrize(
    "widths",
    [
        (8, 8),
        (8, 8, 8),
        (1, 3),
        (5, 20, 10),
        (30, 4),
        (16,) * 5,
        (7, 39, 27, 25, 47),
        (12, 6, 12, 6),
        (64,),
        (100, 10, 100),
        (200,) * 2,
        (48,) * 5,
    ],
    ids=str,
)
def test_mlps_agree_with_the_closed_form(mlp, widths):
    agrees(mlp(len(widths)), widths, np.array([[2.0]]), 100_000, seed=sum(widths))


@pytest.mark.parametrize("width", [1, 2, 5, 16, 64])
@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.95])
def test_bottlenecks_agree_with_the_closed_form(bottleneck, width, correlation):
    agrees(bottleneck, (width,), correlation_gram(correlation, 3, 3), 30_000, seed=width)


@pytest.mark.parametrize("square", [0.2, 1.0])
@pytest.mark.parametrize("widths", [(1, 1), (2, 1, 3), (5, 7), (20, 20, 20), (64,), (3, 30, 3, 30)], ids=str)
def test_biased_mlps_agree_with_the_closed_form(widths, square):
    agrees(mlp_chain(9, len(widths), 1, bias=True), widths, np.array([[2 * square]]), 100_000, seed=sum(widths))


def test_linear_layers_above_a_dead_rectifier_keep_their_biases_share():
    layers = (WeightLayer("dense", Free(0)), WeightLayer("dense", Free(1), "linear"), WeightLayer("dense", 1, "linear"))
    agrees(Chain(4, 1, 1, layers, ("a", "b"), True), (1, 3), np.array([[2.0]]), 100_000, seed=6)
    draws = DenseSampler(Chain(4, 1, 1, layers, ("a", "b"), True).at((1, 3)), np.array([[2.0]])).draw(9, seeded(0))
    assert (draws > 1).all()  # 1 of the output's bias, |w|² of the linear layer's


def test_what_has_no_law_in_closed_form_is_refused(double, bottleneck):
    for chain, gram in (
        (double.at((4,)), correlation_gram(0.5, 5, 5)),
        (replace(bottleneck, bias=True).at((4,)), np.eye(9)),
        (bottleneck.at((4,)), np.ones((2, 9, 9))),
    ):
        with pytest.raises(ValueError, match="no closed form"):
            DenseSampler(chain, gram)


def test_other_blocks_agree_with_the_closed_form(basic, bottleneck):
    agrees(basic, (6,), correlation_gram(0.9, 5, 5), 50_000, seed=1)
    agrees(bottleneck, (6,), correlation_gram(1.0, 3, 3), 50_000, seed=2)  # of rank one
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 9))  # rank four, uneven variances
    agrees(bottleneck, (6,), x.T @ x, 50_000, seed=3)
    layers = (
        WeightLayer("conv", Free(0), "linear"),
        WeightLayer("conv", Free(1), kernel=3, padding=1),
        WeightLayer("conv", Free(0), "linear"),
        WeightLayer("conv", 8, "linear"),
    )
    agrees(Chain(8, 1, 2, layers, ("a", "b")), (3, 9), correlation_gram(0.5, 1, 2), 50_000, seed=4)


def weights_drawn(widths: tuple[int, ...], samples: int, seed: int) -> np.ndarray:
    """K of a dense network on a unit input with 2|x|²/n_0 = 2, by drawing every weight and every gradient."""
    generator = seeded(seed)
    activation = torch.ones(samples, 1, dtype=torch.float64)
    stack, fan_in = [], 1
    for width in (*widths, 1):
        gain = (2.0 if len(stack) < len(widths) else 1.0) / fan_in
        weight = gain**0.5 * torch.randn(samples, width, fan_in, dtype=torch.float64, generator=generator)
        before = torch.einsum("soi,si->so", weight, activation)
        stack.append((gain, weight, activation, before))
        activation, fan_in = before.clamp_min(0), width
    gradient = torch.ones(samples, 1, dtype=torch.float64)
    kernel = torch.zeros(samples, dtype=torch.float64)
    for index, (gain, weight, inputs, before) in reversed(list(enumerate(stack))):
        if index < len(widths):
            gradient = gradient * (before > 0)
        kernel += gain * inputs.square().sum(1) * gradient.square().sum(1)
        gradient = torch.einsum("soi,so->si", weight, gradient)
    return kernel.numpy()


@pytest.mark.parametrize("widths", [(3, 5), (6, 2, 4), (1, 1)], ids=str)
def test_the_law_is_that_of_networks_with_all_weights_drawn(widths):
    layers = [LayerLaw(width, 2 / fan_in, True) for width, fan_in in zip(widths, (1, *widths[:-1]), strict=True)] + [
        LayerLaw(1, 1 / widths[-1], False)
    ]
    law = draw_dense(layers, 40_000, seeded(1)).kernel.numpy()
    plain = weights_drawn(widths, 40_000, seed=2)
    assert (law == 0).mean() == pytest.approx((plain == 0).mean(), abs=0.015)
    assert stats.ks_2samp(law[law > 0], plain[plain > 0]).pvalue > 1e-3


def test_the_law_of_a_block_is_that_of_all_weights_drawn(bottleneck):
    n, samples = 3, 30_000
    gram = correlation_gram(0.6, 3, 3)
    law = DenseSampler(bottleneck.at((n,)), gram).draw(samples, seeded(3)).numpy()
    generator = seeded(4)
    root = torch.as_tensor(np.linalg.cholesky(gram))

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(samples, *shape, dtype=torch.float64, generator=generator)

    z = randn(n, 9) @ root.T
    a = z.clamp_min(0)
    second = randn(n, n, 9) * (2 / (9 * n)) ** 0.5
    y = torch.einsum("soip,sip->so", second, a)
    last = randn(n) * n**-0.5 * (y > 0)
    below = torch.einsum("soip,so->sip", second, last) * (z > 0)
    kernel = torch.einsum("sip,pq,siq->s", below, torch.as_tensor(gram), below)
    kernel += 2 / (9 * n) * a.square().sum((1, 2)) * last.square().sum(1) + y.clamp_min(0).square().sum(1) / n
    plain = kernel.numpy()
    assert (law == 0).mean() == pytest.approx((plain == 0).mean(), abs=0.015)
    assert stats.ks_2samp(law[law > 0], plain[plain > 0]).pvalue > 1e-3


def test_draws_follow_from_the_generator(bottleneck):
    sampler = DenseSampler(bottleneck.at((20,)), correlation_gram(0.9, 3, 3))
    assert torch.equal(sampler.draw(1000, seeded(1)), sampler.draw(1000, seeded(1)))
    assert not torch.equal(sampler.draw(1000, seeded(1)), sampler.draw(1000, seeded(2)))
    draws = sampler.draw(1001, seeded(1))
    assert draws.shape == (1001,)
    assert draws.dtype == torch.float64


def test_precision_of_the_first_layer_hardly_matters(bottleneck):
    gram = correlation_gram(0.95, 3, 3)
    for dtype in (torch.float32, torch.float64):
        draws = DenseSampler(bottleneck.at((8,)), gram, dtype=dtype).draw(50_000, seeded(1)).numpy()
        estimate = Moments.of(draws).estimate()
        assert abs(estimate.log_ratio - log_moment_ratio(bottleneck, (8,), gram)) < 3 * estimate.standard_error


def test_dead_networks_have_no_kernel(mlp):
    draws = DenseSampler(mlp(3).at((1, 1, 1)), np.array([[2.0]])).draw(20_000, seeded(1))
    assert torch.isfinite(draws).all()
    assert (draws == 0).double().mean().item() == pytest.approx(7 / 8, abs=0.01)
    biased = DenseSampler(mlp_chain(784, 3, 1, bias=True).at((1, 1, 1)), np.array([[2.0]])).draw(20_000, seeded(1))
    assert (biased == 1).double().mean().item() == pytest.approx(7 / 8, abs=0.01)  # the output's bias is left


def test_a_single_layer_is_constant():
    chain = Chain(8, 4, 4, (WeightLayer("conv", 3, "linear", kernel=3, padding=1),), ())
    gram = correlation_gram(0.5, 3, 3)
    draws = DenseSampler(chain, gram).draw(100, seeded(1))
    assert draws.numpy() == pytest.approx(mean(chain, (), gram))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_draws_the_same_law(bottleneck):
    gram = correlation_gram(0.95, 3, 3)
    generator = torch.Generator(device="cuda").manual_seed(1)
    draws = DenseSampler(bottleneck.at((16,)), gram, device="cuda").draw(1_000_000, generator).cpu().numpy()
    estimate = Moments.of(draws).estimate()
    assert abs(estimate.log_ratio - log_moment_ratio(bottleneck, (16,), gram)) < 3 * estimate.standard_error
