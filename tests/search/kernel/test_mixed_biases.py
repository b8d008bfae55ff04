"""Biases in some layers and not in others: closed form, both samplers' laws, and plain gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from collegium.search.kernel.closed_form import has_closed_form, is_gated, log_moment_ratio, mean
from collegium.search.kernel.inputs import KernelInputs
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.activation import Activation
from collegium.search.networks.chain import Chain
from collegium.search.networks.families.mlp import mlp_chain
from collegium.search.sampling.conv import ConvSampler
from collegium.search.sampling.reference import inputs_with_gram, kernel_samples, module_of

GRAM = np.array([[2.0]])


def mlp(bias: tuple[bool, ...], activation: str = "relu") -> Chain:
    return replace(mlp_chain(5, 3, 1, activation=Activation(activation)), bias=bias)


def agrees(draws: np.ndarray, exact: float, expected: float) -> None:
    found = Moments.of(draws).estimate()
    assert abs(found.log_ratio - exact) < 3.5 * found.standard_error
    assert found.mean == pytest.approx(expected, abs=4 * draws.std() / math.sqrt(len(draws)))


@pytest.mark.parametrize("bias", [each for each in product([False, True], repeat=4) if len(set(each)) > 1], ids=str)
def test_the_closed_form_is_that_of_samples_and_of_plain_gradients(bias):
    chain, widths = mlp(bias), (2, 3, 1)  # so narrow that every unit of a layer is often closed
    assert has_closed_form(chain, "unit")
    assert not is_gated(chain, "unit")
    exact, expected = log_moment_ratio(chain, widths), mean(chain, widths)
    for hidden in ("weights", "law"):
        sampler = ConvSampler(chain.at(widths), "unit", GRAM, hidden=hidden)
        agrees(sampler.draw(60_000, torch.Generator().manual_seed(1)).double().numpy(), exact, expected)
    x = inputs_with_gram(chain, "unit", GRAM)[0].float()
    plain = kernel_samples(module_of(chain, widths, "unit"), x, x, 4_000, torch.Generator().manual_seed(2), chunk=1000)
    agrees(plain.double().numpy(), exact, expected)


def test_equal_ones_are_one_and_another_number_is_refused():
    assert mlp((True,) * 4) == mlp_chain(5, 3, 1, True)
    assert mlp((False,) * 4).bias is False
    with pytest.raises(ValueError, match="one for each of 4"):
        mlp((True, False))


def test_points_tell_them_apart_and_survive_json():
    chains = [
        mlp(each) for each in ((True, False, False, False), (False, True, False, False), (True,) * 4, (False,) * 4)
    ]
    points = [KernelPoint.of(chain, (3, 3, 3), "unit", KernelInputs()) for chain in chains]
    assert len({point.key for point in points}) == 4
    for point in points:
        again = KernelPoint.model_validate(point.model_dump(mode="json"))
        assert (again, again.key) == (point, point.key)


def test_parameters_are_the_biases_of_their_layers():
    assert mlp((True, False, True, False)).parameters((2, 3, 4)) == 5 * 2 + 2 + 2 * 3 + 3 * 4 + 4 + 4
