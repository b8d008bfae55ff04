"""Attention heads as members: draws against plain gradients, and the curve over their width."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from collegium.search.attention.heads import HeadCurve, head_curve
from collegium.search.attention.sampler import HeadSampler
from collegium.search.errors import InvalidSpec
from collegium.search.kernel.closed_form import log_moment_ratio, mean
from collegium.search.kernel.moments import Moments
from collegium.search.networks.activation import Activation
from collegium.search.networks.families.mlp import mlp_chain


class Attention(nn.Module):
    """``heads`` heads of ``width`` as torch computes them, one output unit at the first token, NTK parameterization."""

    def __init__(self, inputs: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.query, self.key, self.value = (nn.Parameter(torch.empty(heads * width, inputs)) for _ in range(3))
        self.output = nn.Parameter(torch.empty(heads * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(tokens, inputs)`` → the output unit."""

        def split(weights: torch.Tensor) -> torch.Tensor:
            return (x @ weights.T / math.sqrt(x.shape[1])).unflatten(1, (self.heads, self.width)).transpose(0, 1)

        q, k, v = (split(weights) for weights in (self.query, self.key, self.value))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]  # (heads, width)
        return (attended.flatten() @ self.output) / math.sqrt(self.heads * self.width)


def plain_samples(module: Attention, x: torch.Tensor, count: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    gradients = vmap(grad(lambda p: functional_call(module, p, (x,))))
    found = []
    for _ in range(count // 1000):
        drawn = {
            name: torch.randn(1000, *value.shape, generator=generator, dtype=x.dtype)
            for name, value in module.named_parameters()
        }
        found.append(sum(g.flatten(1).square().sum(1) for g in gradients(drawn).values()))
    return torch.cat(found).numpy()


def tokens_with(gram: np.ndarray, inputs: int) -> torch.Tensor:
    x = np.zeros((len(gram), inputs))
    x[:, : len(gram)] = np.linalg.cholesky(gram) * math.sqrt(inputs)
    return torch.from_numpy(x)


GRAM = np.array([[1.0, 0.5, 0.1, -0.2], [0.5, 1.5, 0.3, 0.0], [0.1, 0.3, 0.8, 0.4], [-0.2, 0.0, 0.4, 1.0]])


@pytest.mark.parametrize("width", [1, 6])
def test_draws_have_the_law_of_all_weights_drawn(width):
    law = HeadSampler(width, GRAM).draw(60_000, torch.Generator().manual_seed(1)).numpy()
    plain = plain_samples(Attention(7, 1, width), tokens_with(GRAM, 7), 15_000, 2)
    one, two = Moments.of(law).estimate(), Moments.of(plain).estimate()
    assert abs(one.mean - two.mean) < 3.5 * math.hypot(law.std() / 245, plain.std() / 122)
    assert abs(one.log_ratio - two.log_ratio) < 3.5 * math.hypot(one.standard_error, two.standard_error)


def test_a_wide_head_has_the_law_of_its_keys_and_values_drawn():
    """Their components along the query and the read-out, and lengths across, against all of them: d = 40."""
    width, count = 40, 20_000
    generator = torch.Generator().manual_seed(5)
    root = torch.linalg.cholesky(torch.from_numpy(GRAM))
    keys, values = (root @ torch.randn(count, 4, width, generator=generator, dtype=torch.float64) for _ in range(2))
    query, readout = (torch.randn(count, width, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = torch.softmax((keys @ query).squeeze(2) / math.sqrt(width), dim=1)
    each = (values @ readout).squeeze(2) / math.sqrt(width)
    pull = weights * (each - (weights * each).sum(1, keepdim=True)) / math.sqrt(width)
    gram = torch.from_numpy(GRAM)
    spread, pulled = ((w @ gram * w).sum(1) for w in (weights, pull))
    entry = (weights.unsqueeze(1) @ values).square().sum((1, 2)) / width
    entry += readout.square().sum((1, 2)) / width * spread + query.square().sum((1, 2)) * pulled
    entry += (pull.unsqueeze(1) @ keys).square().sum((1, 2))
    law = HeadSampler(width, GRAM).draw(60_000, torch.Generator().manual_seed(6))
    one, two = Moments.of(law.numpy()).estimate(), Moments.of(entry.numpy()).estimate()
    assert abs(one.log_ratio - two.log_ratio) < 3.5 * math.hypot(one.standard_error, two.standard_error)
    assert float(law.mean()) == pytest.approx(
        float(entry.mean()), abs=3.5 * float(entry.std()) * (1 / count + 1 / 60_000) ** 0.5
    )


@pytest.mark.parametrize("width", [2, 10])
def test_a_single_token_makes_a_head_a_linear_network(width):
    draws = HeadSampler(width, np.array([[1.0]])).draw(60_000, torch.Generator().manual_seed(3)).numpy()
    chain = mlp_chain(5, 1, 1, activation=Activation("linear"))
    found = Moments.of(draws).estimate()
    assert abs(found.log_ratio - log_moment_ratio(chain, (width,))) < 3.5 * found.standard_error
    assert found.mean == pytest.approx(mean(chain, (width,)), rel=4 * draws.std() / found.mean / 245)


def test_the_variance_of_a_block_is_that_of_one_head_over_their_number():
    gram = np.eye(5)
    curve = head_curve(3, 4, min_width=4, tokens=5, relative_error=0.05)
    (row,) = [row for row in curve.rows if row.width == 4]
    plain = Moments.of(plain_samples(Attention(5, 3, 4), tokens_with(gram, 5), 8_000, 4)).estimate()
    apart = math.hypot(plain.ratio * plain.standard_error, row.standard_error)
    assert abs(math.expm1(plain.log_ratio) - row.variance) < 3.5 * apart


def test_the_curve_falls_and_flattens_and_says_what_it_leaves_out():
    curve = head_curve(2, 16, min_width=2, tokens=8, relative_error=0.05)
    assert [(row.heads, row.width) for row in curve.rows] == [(1, 32), (2, 16), (4, 8), (8, 4), (16, 2)]
    assert all(row.converged and row.samples >= 8192 for row in curve.rows)
    assert curve.rows[1].relative_variance == 1
    assert curve.rows[0].variance > 1.2 * curve.rows[2].variance
    assert curve.flat_from < 32
    assert "knows nothing of what a narrow head can express" in str(curve)
    assert HeadCurve.model_validate_json(curve.model_dump_json()) == curve
    assert head_curve(2, 16, min_width=2, tokens=8, relative_error=0.05) == curve


def test_the_given_heads_are_shown_even_below_the_floor():
    curve = head_curve(8, 2, min_width=8, tokens=4, relative_error=0.1)
    assert [row.width for row in curve.rows] == [16, 8, 2]
    assert curve.flat_from >= 8


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"heads": 0}, "heads"),
        ({"heads": True}, "heads"),
        ({"width": 10**6}, "width"),
        ({"heads": 60_000, "width": 2}, "heads"),
        ({"min_width": 200}, "min_width"),
        ({"tokens": 0}, "tokens"),
        ({"correlation": 1.5}, "correlation"),
        ({"relative_error": 0.0}, "relative_error"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(asked, path):
    with pytest.raises(InvalidSpec) as raised:
        head_curve(**{"heads": 2, "width": 8, "min_width": 4, **asked})
    assert raised.value.path == (path,)
