"""Blocks of attention are described as what their modules are, however they are written, and lead to their curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.networks.families.attention import AttentionBlock
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def found(baseline: NetworkBaseline) -> list[dict[str, Any]]:
    return [block.model_dump(exclude_defaults=True, exclude={"paths"}) for block in baseline.attention]


def transformer(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    library = pytest.importorskip("transformers")
    words = {"input_ids": torch.zeros(2, 9, dtype=torch.long)}
    of_words = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1}
    match name:
        case "ViT":
            config = library.ViTConfig(image_size=32, patch_size=8, **SMALL)
            return library.ViTModel(config), {"pixel_values": torch.zeros(2, 3, 32, 32)}
        case "BERT":
            return library.BertModel(library.BertConfig(vocab_size=50, max_position_embeddings=16, **SMALL)), words
        case "GPT-2":
            config = library.GPT2Config(n_positions=16, n_embd=32, n_layer=2, n_head=4, use_cache=False, **of_words)
            return library.GPT2Model(config), words
    config = library.LlamaConfig(num_key_value_heads=2, use_cache=False, **of_words, **SMALL)
    return library.LlamaModel(config), words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens", "how"),
    [("ViT", 17, "sdpa"), ("BERT", 9, "eager"), ("GPT-2", 9, "sdpa"), ("LLaMA", 9, "sdpa"), ("LLaMA", 9, "eager")],
)
def test_transformers_have_the_heads_of_their_configuration(name: str, tokens: int, how: str):
    model, example = transformer(name)
    model.set_attn_implementation(how)  # type: ignore[operator]
    shared = {"key_heads": 2} if name == "LLaMA" else {}
    assert found(describe(model.eval(), example)) == [{"count": 2, "heads": 4, "width": 8, "tokens": tokens, **shared}]


@pytest.mark.parametrize("batch", [1, 3])
def test_torchs_own_encoder(described: Callable[..., NetworkBaseline], batch: int):
    layer = nn.TransformerEncoderLayer(24, 3, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    baseline = described(model, torch.zeros(batch, 10, 24))
    assert found(baseline) == [{"count": 2, "heads": 3, "width": 8, "tokens": 10}]
    assert baseline.attention[0].paths == ("layers.0.self_attn", "layers.1.self_attn")
    # two products of 3 heads of 8 over 10 tokens, in each layer
    assert baseline.attention[0].products == 2 * 3 * 8 * 10 * 10
    assert "3 heads of 8 over 10 tokens" in str(baseline)
    assert "3 heads of 8 over 10 tokens" in baseline._repr_html_()


class Heads(nn.Module):
    """Attention written out: 3 heads of 8, in windows of 5 tokens, with a bias of positions and a mask."""

    def __init__(self, windows: int, masked: bool, merged: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.bias = nn.Parameter(torch.zeros(3, 5, 5))
        self.windows, self.masked, self.merged = windows, masked, merged

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        x = x.reshape(batch * self.windows, tokens // self.windows, channels)
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 3, 8).permute(2, 0, 3, 1, 4)
        if self.merged:
            q, k, v = (each.flatten(0, 1) for each in (q, k, v))
        scores = (q * 8**-0.5) @ k.transpose(-2, -1)
        scores = scores if self.merged else scores + self.bias
        if self.masked:
            scores = scores.masked_fill(torch.ones(5, 5).tril() == 0, -1e9)
        y = nn.functional.dropout(scores.softmax(-1), 0.1, self.training) @ v
        y = y.reshape(len(x), 3, -1, 8).transpose(1, 2).reshape(batch, tokens, channels)
        return self.out(y)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("windows", "merged"), [(1, False), (2, False), (2, True)])
def test_attention_that_is_written_out(windows: int, masked: bool, merged: bool):
    baseline = describe(Heads(windows, masked, merged), torch.zeros(2, 5 * windows, 24))
    assert found(baseline) == [{"heads": 3, "width": 8, "tokens": 5}]


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x[:, :3], x[:, :3])[0]


def test_attention_to_other_tokens_has_no_curve_and_says_so():
    (block,) = describe(Cross(), torch.zeros(1, 7, 16)).attention
    assert (block.tokens, block.keys) == (7, 3)
    with pytest.raises(InvalidSpec, match="attends to other tokens") as refused:
        block.as_baseline(min_width=4)
    assert refused.value.path == ("attention",)


def test_a_gate_and_a_plain_softmax_are_no_attention():
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).softmax(-1) * x)

    assert describe(Gate(), torch.zeros(2, 5, 8)).attention == ()


def test_a_search_names_the_blocks_and_the_call_that_gives_their_curve():
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    baseline = describe(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), torch.zeros(1, 6, 16))
    outcome = find_ensemble(baseline).outcome
    assert outcome.kind == "nothing_to_gain"
    assert "2 heads of 8 over 6 tokens" in outcome.message
    call = "baseline.attention[0].as_baseline(min_width=2)"
    assert call in outcome.message
    curve = find_ensemble(eval(call, {"baseline": baseline}), estimator={"relative_error": 0.3})
    assert [(row.primal_multiplicity, row.width) for row in curve.curve] == [(1, 16), (2, 8), (4, 4), (8, 2)]
    assert curve.outcome.kind == "no_optimum"


@pytest.mark.parametrize(
    ("fields", "place", "words"),
    [
        ({"heads": 0}, ("attention", 0, "heads"), "greater than or equal to 1"),
        ({"key_heads": 3}, ("attention", 0, "key_heads"), "must divide the 4 heads"),
        ({"paths": ["a"]}, ("attention", 0, "paths"), "as many modules"),
        ({"tokens": 10**6}, ("attention",), "more than the whole has"),
    ],
)
def test_lies_about_heads_are_refused_by_field(fields: dict[str, Any], place: tuple[Any, ...], words: str):
    block = {"count": 2, "heads": 4, "width": 8, "tokens": 9} | fields
    whole = {"family": "network", "name": "net", "input": [9, 32], "outputs": 288, "branches": []}
    whole |= {"parameters": 5000, "flops": 50_000, "attention": [block]}
    with pytest.raises(InvalidSpec, match=words) as refused:
        parse_spec(SearchSpec, {"baseline": whole})
    assert refused.value.path == ("baseline", *place)


def test_tokens_of_the_curve_are_those_that_a_sample_holds():
    assert AttentionBlock(heads=16, width=1024, tokens=4096).curve_tokens == 2**21 // 16384
    assert AttentionBlock(heads=12, width=64, tokens=4096).curve_tokens == 512
