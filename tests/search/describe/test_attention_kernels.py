"""Attention as libraries write it: heads, widths, tokens and products by arithmetic, and the curve by plain gradients.

The library's own modules are drawn again and again, and the kernel of one output unit is formed by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from collegium.search.attention.heads import head_curve
from collegium.search.attention.sampler import HeadSampler
from collegium.search.describe.describe import describe
from collegium.search.kernel.moments import Moments
from collegium.search.networks.families.attention import AttentionBlock
from collegium.search.networks.families.network import NetworkBaseline

HEADS, WIDTH, TOKENS, DRAWS, CORRELATION = 4, 4, 9, 6_000, 0.3
EMBEDDING = HEADS * WIDTH
SIZES: dict[str, Any] = {
    "hidden_size": EMBEDDING,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "intermediate_size": 24,
}
IDS = {"input_ids": torch.ones(2, TOKENS, dtype=torch.long)}


class Block(nn.Module):
    """Queries, keys, values and the projection out, as a library has them: what a kernel is of."""

    def __init__(self, attention: nn.Module, out: nn.Module | None = None) -> None:
        super().__init__()
        self.attention, self.out = attention, out or nn.Identity()

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        found = self.attention(x, **options)
        return self.out(found[0] if isinstance(found, tuple) else found)


@dataclass(frozen=True)
class Case:
    """A library's network, its example, its attention and what that is called with; extents that the network has."""

    make: Callable[[], nn.Module]
    example: Mapping[str, Tensor]
    block: Callable[[Any], Block]
    expected: tuple[dict[str, Any], ...]
    token: int = 0
    options: Mapping[str, Any] | None = None


def vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=3, **SIZES), add_pooling_layer=False)


def swin() -> nn.Module:
    """Four windows of 3 × 3 tokens."""
    sizes = {"image_size": 12, "patch_size": 2, "window_size": 3, "embed_dim": EMBEDDING, "depths": [1]}
    return transformers.SwinModel(transformers.SwinConfig(**sizes, num_heads=[HEADS]), add_pooling_layer=False)  # pyright: ignore[reportArgumentType]


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(vocab_size=20, max_position_embeddings=TOKENS, **SIZES))


def gpt2() -> nn.Module:
    sizes = {"n_embd": EMBEDDING, "n_layer": 1, "n_head": HEADS, "n_positions": TOKENS, "use_cache": False}
    return transformers.GPT2Model(transformers.GPT2Config(vocab_size=20, bos_token_id=1, eos_token_id=1, **sizes))


def t5() -> nn.Module:
    sizes = {"d_model": EMBEDDING, "d_kv": WIDTH, "num_heads": HEADS, "d_ff": 24, "num_layers": 1, "vocab_size": 20}
    return transformers.T5Model(transformers.T5Config(**sizes, use_cache=False))


def of_t5(model: Any) -> Block:
    attention = model.encoder.block[0].layer[0].SelfAttention
    nn.init.zeros_(attention.relative_attention_bias.weight)  # a bias of positions is not in the curve
    return Block(attention)


OWN = {"heads": HEADS, "width": WIDTH, "tokens": TOKENS}
CASES: dict[str, Case] = {
    "ViT": Case(
        vit,
        {"pixel_values": torch.zeros(2, 3, 8, 8)},
        lambda model: Block(model.layers[0].attention),
        ({**OWN, "tokens": 5},),
    ),
    "Swin": Case(
        swin,
        {"pixel_values": torch.zeros(2, 3, 12, 12)},
        lambda model: Block(model.encoder.layers[0].blocks[0].attention),
        (OWN,),
    ),
    "BERT": Case(
        bert,
        IDS,
        lambda model: Block(model.encoder.layer[0].attention.self, model.encoder.layer[0].attention.output.dense),
        (OWN,),
    ),
    "GPT-2": Case(gpt2, IDS, lambda model: Block(model.h[0].attn), (OWN,), token=-1),  # the last one reads all tokens
    "T5": Case(
        t5,
        IDS | {"decoder_input_ids": torch.ones(2, 6, dtype=torch.long)},
        of_t5,
        (OWN, {**OWN, "tokens": 6}, {**OWN, "tokens": 6, "keys": TOKENS}),
    ),
}
FAST = ("BERT",)
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.fixture(scope="module", params=NAMES)
def described(request: pytest.FixtureRequest) -> tuple[Case, nn.Module, NetworkBaseline]:
    case = CASES[request.param]
    torch.manual_seed(0)
    model: Any = case.make().eval()
    model.set_attn_implementation("eager")
    return case, model, describe(model, dict(case.example))


def test_heads_widths_and_tokens_are_those_of_the_configuration(described: tuple[Case, nn.Module, NetworkBaseline]):
    case, _, baseline = described
    found = [block.model_dump(exclude_defaults=True, exclude={"paths", "count"}) for block in baseline.attention]
    assert tuple(found) == case.expected


def test_what_no_layer_accounts_for_are_the_products_of_the_heads(described: tuple[Case, nn.Module, NetworkBaseline]):
    _, _, baseline = described
    layers = sum(branch.count * branch.flops for branch in baseline.branches if branch.layers)
    windows = 4 if "Swin" in baseline.name else 1
    assert baseline.flops - layers == windows * sum(block.count * block.products for block in baseline.attention)


def test_the_curve_is_that_of_the_librarys_module(described: tuple[Case, nn.Module, NetworkBaseline]):
    case, model, baseline = described
    block = baseline.attention[0]
    curve = head_curve(
        block.heads, block.width, min_width=1, tokens=block.tokens, correlation=CORRELATION, relative_error=0.03
    )
    (row,) = (row for row in curve.rows if row.width == WIDTH)
    sampled = draws(case.block(model), block, case)
    estimate = Moments.of(sampled).estimate()
    variance, error = math.expm1(estimate.log_ratio), estimate.ratio * estimate.standard_error
    assert abs(variance - row.variance) < 3.5 * math.hypot(error, row.standard_error or 0.0)
    head = HeadSampler(WIDTH, _gram(block).numpy()).draw(4 * DRAWS, torch.Generator().manual_seed(2))
    errors = sampled.std() / DRAWS**0.5, float(head.std()) / (4 * DRAWS) ** 0.5
    assert abs(sampled.mean() - float(head.mean())) < 3.5 * math.hypot(*errors)


def _gram(block: AttentionBlock) -> Tensor:
    gram = torch.full((block.tokens, block.tokens), CORRELATION, dtype=torch.float64)
    return gram.fill_diagonal_(1)


def draws(module: Block, block: AttentionBlock, case: Case) -> np.ndarray:
    """K of one output unit over draws of the weights, which are distributed as 1 / fan-in says, biases left at zero."""
    module = module.double().eval()
    x = torch.zeros(1, block.tokens, EMBEDDING, dtype=torch.float64)
    x[0, :, : block.tokens] = torch.linalg.cholesky(_gram(block)) * math.sqrt(EMBEDDING)
    weights = {name: value for name, value in module.named_parameters() if value.dim() == 2 and "bias" not in name}
    scale = {name: _deviation(module, name) for name in weights}
    fixed = {name: torch.zeros_like(value) for name, value in module.named_parameters() if name not in weights}

    def kernel(drawn: dict[str, Tensor]) -> Tensor:
        gradient = grad(lambda given: functional_call(module, {**given, **fixed}, (x,))[0, case.token, 0])(drawn)
        return sum((scale[name] ** 2 * each.square().sum() for name, each in gradient.items()), x.new_zeros(()))

    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(DRAWS // 2000):
        drawn = {
            name: scale[name] * torch.randn(2000, *value.shape, generator=generator, dtype=x.dtype)
            for name, value in weights.items()
        }
        found.append(vmap(kernel)(drawn))
    return torch.cat(found).detach().numpy()


def _deviation(module: nn.Module, name: str) -> float:
    """1 / √fan-in; queries of T5 have the scale of its scores in their weights."""
    owner = module.get_submodule(name.rpartition(".")[0])
    weight = owner.get_parameter("weight")
    fan_in = weight.shape[0] if type(owner).__name__ == "Conv1D" else weight.shape[1]
    return (fan_in * (WIDTH if name == "attention.q.weight" else 1)) ** -0.5
