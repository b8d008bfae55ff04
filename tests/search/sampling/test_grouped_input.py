"""A first layer in groups, each of which sees other input channels and so another Gram matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collegium.search.kernel.closed_form import has_closed_form, log_moment_ratio, mean
from collegium.search.kernel.inputs import Gram, KernelInputs, correlation_gram
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.sampling.conv import ConvSampler
from collegium.search.sampling.dense import DenseSampler
from collegium.search.sampling.reference import inputs_with_gram, kernel_samples, module_of
from collegium.search.sampling.sampler import build_sampler

#: Of one group strongly correlated, of another white and smaller, of the third nothing.
GRAMS = np.stack([correlation_gram(1.0, 3, 3), 0.4 * correlation_gram(0.0, 3, 3), np.zeros((9, 9))])


def block(*layers: WeightLayer, size: int = 3, bias: bool = False) -> Chain:
    return Chain(60, size, size, (*layers, WeightLayer("conv", 2, "linear")), (), bias)


def first(activation="relu", groups=3, out=6, kernel=1) -> WeightLayer:
    return WeightLayer("conv", out, activation, kernel, padding=kernel // 2, groups=groups)


def second(groups=1, out=6) -> WeightLayer:
    return WeightLayer("conv", out, kernel=3, padding=1, groups=groups)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(chain: Chain, gram: np.ndarray, entry: str, pair: float | None) -> torch.Tensor:
    left, right = (x.float() for x in inputs_with_gram(chain, entry, gram, pair))
    return kernel_samples(
        module_of(chain, (), entry), left, left if pair is None else right, 8_000, seeded(1), chunk=500
    )


def same_law(left: torch.Tensor, right: torch.Tensor) -> None:
    a, b = (Moments.of(samples.double().numpy()).estimate() for samples in (left, right))
    spread = (left.var() / len(left) + right.var() / len(right)).sqrt().item()
    assert abs(left.mean().item() - right.mean().item()) < 3.5 * spread
    assert abs(a.log_ratio - b.log_ratio) < 3.5 * np.hypot(a.standard_error, b.standard_error)


CASES = {
    "unit": (block(first(), second()), "unit", None),
    "linear": (block(first("linear"), second()), "unit", None),
    "patches": (block(first(kernel=3), second()), "unit", None),
    "pooled": (block(first(), second()), "pooled", None),
    "pair": (block(first(), second()), "unit", 0.6),
    "biases": (block(first(), second(), bias=True), "unit", None),
    "groups above": (block(first(), second(groups=2)), "unit", None),
    "groups above, read in part": (block(first(), WeightLayer("conv", 6, kernel=3, padding=1, groups=6)), "unit", None),
}


@pytest.mark.parametrize("name", CASES)
def test_samples_have_the_law_of_the_plain_definition(name):
    chain, entry, pair = CASES[name]
    if name == "groups above, read in part":
        chain = Chain(60, 3, 3, (*chain.layers[:-1], WeightLayer("conv", 2, "linear", groups=2)), ())
    same_law(ConvSampler(chain, entry, GRAMS, pair).draw(20_000, seeded(2)), plain(chain, GRAMS, entry, pair))


@pytest.mark.parametrize("chain", [CASES[name][0] for name in ("unit", "linear", "patches")], ids=str)
@pytest.mark.parametrize("grams", [GRAMS, np.stack([GRAMS[0], 9 * GRAMS[1], GRAMS[0] + GRAMS[1]])], ids=["0", "1"])
def test_the_closed_form_is_what_is_sampled(chain, grams):
    assert has_closed_form(chain, "unit")
    draws = ConvSampler(chain, "unit", grams).draw(50_000, seeded(3)).double().numpy()
    estimate = Moments.of(draws).estimate()
    assert abs(estimate.log_ratio - log_moment_ratio(chain, (), grams)) < 3.5 * estimate.standard_error
    assert abs(draws.mean() - mean(chain, (), grams)) < 3.5 * draws.std() / np.sqrt(len(draws))


def test_groups_that_see_the_same_are_no_groups():
    chain = block(first(), second())
    ungrouped = block(first(groups=1), second())
    gram = correlation_gram(0.7, 3, 3)
    expected = log_moment_ratio(ungrouped, (), gram)
    assert log_moment_ratio(chain, (), gram) == pytest.approx(expected, rel=1e-12)
    assert log_moment_ratio(chain, (), np.stack([gram] * 3)) == pytest.approx(expected, rel=1e-12)
    assert mean(chain, (), np.stack([gram] * 3)) == pytest.approx(mean(ungrouped, (), gram), rel=1e-12)
    one, other = (ConvSampler(chain, "unit", each).draw(20_000, seeded(4)) for each in (gram, np.stack([gram] * 3)))
    same_law(one, other)


def test_groups_that_see_different_inputs_vary_more():
    chain = block(first(), second())
    apart = log_moment_ratio(chain, (), GRAMS)
    together = log_moment_ratio(chain, (), GRAMS.mean(0))
    assert apart > 1.2 * together


def test_the_sampler_follows_the_inputs():
    chain, gram = block(first(), second()), correlation_gram(0.7, 3, 3)
    equal = KernelPoint.of(chain, (), "unit", KernelInputs(gram=Gram(gram)))
    apart = KernelPoint.of(chain, (), "unit", KernelInputs(gram=Gram(GRAMS)))
    assert type(build_sampler(equal)) is DenseSampler
    assert type(build_sampler(apart)) is ConvSampler
    assert equal.key != apart.key
    assert KernelPoint.model_validate(apart.model_dump(mode="json")) == apart


def test_a_single_grouped_layer_sees_the_first_groups_inputs():
    chain = Chain(60, 3, 3, (WeightLayer("conv", 3, "linear", kernel=3, groups=3),), ())
    draws = ConvSampler(chain, "unit", GRAMS).draw(3, seeded(0)).double().numpy()
    assert draws == pytest.approx(mean(chain, (), GRAMS), rel=1e-5)
    assert draws == pytest.approx(mean(chain, (), GRAMS[0]), rel=1e-5)


def test_nothing_is_left_on_the_processor():
    class NoNumbers:
        def fill(self, out):
            return out

    chain = block(first(), second(), bias=True)
    sampler = ConvSampler(chain, "unit", GRAMS, 0.5, device="meta", hidden="weights")
    assert sampler._draw_batch(3, NoNumbers()).device.type == "meta"


def test_one_matrix_for_each_group_is_needed():
    with pytest.raises(ValueError, match="2 Gram matrices for a first layer of 3 groups"):
        ConvSampler(block(first(), second()), "unit", GRAMS[:2])
