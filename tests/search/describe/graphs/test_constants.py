"""Graphs with constants, integers, masks and several inputs are the module; a constant is held bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree

from collegium.search.describe.describe import describe
from collegium.search.describe.graphs.constants import encoded
from collegium.search.describe.graphs.missing import Missing
from collegium.search.describe.trace import tensors_in
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.graph.content import ConstantLayer
from collegium.search.parse import parse_spec
from collegium.search.regroup.grouped import GraphNetwork, _constant

VOCABULARY, TOKENS = 50, 8
IDS = torch.zeros(1, TOKENS, dtype=torch.long)


def _text(kind: str, head: str, **sizes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(vocab_size=VOCABULARY, **sizes)
        return getattr(transformers, f"{kind}For{head}")(config)

    return make


def _image(kind: str, **sizes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(num_labels=3, **sizes)
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return make


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
BERT = _text("Bert", "SequenceClassification", **SMALL, max_position_embeddings=16)
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "use_cache": False}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
T5 = {"d_model": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "d_ff": 24, "use_cache": False}
SWIN = {"embed_dim": 8, "depths": [2], "num_heads": [2], "image_size": 16, "patch_size": 2, "window_size": 4}


class Causal(nn.Module):
    """A mask in a buffer that is not saved, filled with -inf, and the biases of relative positions by a saved index."""

    def __init__(self, tokens: int = 6, width: int = 8) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, width), nn.Linear(width, 3 * width)
        self.table = nn.Parameter(torch.randn(2 * tokens - 1))
        places = torch.arange(tokens)
        self.register_buffer("places", places[:, None] - places[None] + tokens - 1)
        self.register_buffer("mask", torch.ones(tokens, tokens).tril() == 0, persistent=False)

    def forward(self, ids: Tensor, present: Tensor) -> Tensor:
        q, k, v = self.mix(self.embed(ids) * present.float()[..., None]).chunk(3, -1)
        scores = q @ k.transpose(-2, -1) + self.table[self.places]
        scores = scores.masked_fill(self.mask, -torch.inf).masked_fill(present[:, None] == 0, -1e4)
        return (functional.normalize(scores.softmax(-1), dim=-1) @ v).mean(1)


#: Of each network how it is made, and an example.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "bert": (BERT, {"input_ids": IDS}),
    "bert with a mask": (BERT, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}),
    "gpt-2": (lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, **GPT2)), IDS),
    "llama": (_text("Llama", "CausalLM", **SMALL, num_key_value_heads=1, use_cache=False), {"input_ids": IDS}),
    "t5": (
        _text("T5", "ConditionalGeneration", **T5),
        {"input_ids": IDS, "decoder_input_ids": torch.zeros(1, 5, dtype=torch.long)},
    ),
    "vit": (_image("ViT", **SMALL, image_size=8, patch_size=4), {"pixel_values": torch.zeros(1, 3, 8, 8)}),
    "swin": (_image("Swin", **SWIN), {"pixel_values": torch.zeros(1, 3, 16, 16)}),
    "causal": (Causal, (torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.long))),
}


def batch_of(example: Any) -> Any:
    """Three samples: numbers, ids, and for a mask rows of ones that end."""

    def fill(each: Tensor) -> Tensor:
        shape = (3, *each.shape[1:])
        if each.dtype.is_floating_point:
            return torch.randn(shape)
        if bool(each.all()):
            return (torch.arange(shape[1]) < torch.tensor([[shape[1]], [5], [3]])).long()
        return torch.randint(0, VOCABULARY, shape)

    return _pytree.tree_map_only(Tensor, fill, example)


def given(model: nn.Module, example: Any) -> Tensor:
    """The first tensor of the module's output."""
    if isinstance(example, dict):
        return next(tensors_in(model(**example)))
    return next(tensors_in(model(*example) if isinstance(example, tuple) else model(example)))


SLOW = {"bert", "swin", "llama", "t5"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NETWORKS])
def test_the_rebuilt_network_computes_what_the_module_does(name: str):
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    model = make().eval()
    baseline = describe(model, example)
    assert baseline.no_graph is None
    posted = json.loads(json.dumps(baseline.model_dump(mode="json")))
    network = build_network(parse_spec(NetworkBaseline, posted))
    built = GraphNetwork(**network.arguments(network.baseline, network.multiplicity)).eval()
    assert list(built.state_dict()) == list(model.state_dict())
    built.load_state_dict(model.state_dict())
    batch = batch_of(example)
    with torch.no_grad():
        assert torch.equal(built(*tensors_in(batch)), given(model, batch))


class Random(nn.Module):
    """What is random is no constant, though no input is read on the way to it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(3)


class Counted(nn.Module):
    """Its samples are numbered."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.arange(len(x)).float()[:, None]


class Scattered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.randn(200, 200))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.numbers


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        (Random(), 3, "'rand' in the model"),
        (Counted(), 3, "counts the samples of the batch"),
        (Scattered(), 200, "a constant of 40,000 numbers in no order that is known"),
        (Scattered().to("meta"), 200, "the buffer 'numbers', whose numbers are not there on this device"),
    ],
)
def test_what_is_no_constant_has_no_graph(model: nn.Module, size: int, reason: str):
    assert reason in str(describe(model, torch.zeros(1, size)).no_graph)


PLACES = torch.tensor([[0, 0, 1], [0, 1, 2]])
CONSTANTS = {
    "positions": torch.arange(7).reshape(1, 7) * 3 - 4,
    "one number": torch.tensor(0.1),
    "ones": torch.ones(2, 3, 4, dtype=torch.bool),
    "causal": torch.ones(2, 1, 5, 5).tril() > 0,
    "added causal": torch.full((4, 6), -torch.inf).triu(2),
    "edge": torch.arange(9) >= 4,
    "windows": torch.where(PLACES[:, :, None] == PLACES[:, None], 0.0, -100.0),
    "index": torch.tensor([[3, 1], [2**40, -7]]),
    "numbers": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_held_bit_for_bit(name: str):
    tensor = CONSTANTS[name]
    layer = ConstantLayer.model_validate({"kind": "constant", "path": "held", **encoded(tensor)})
    made = _constant(json.loads(layer.model_dump_json()))
    assert made.dtype == tensor.dtype
    assert torch.equal(made, tensor)
    if tensor.dtype == torch.long:
        assert (layer.holds.low, layer.holds.high) == (tensor.min().item(), tensor.max().item())
    large = name in ("causal", "added causal", "edge", "positions", "ones")
    assert large == (layer.start is not None) or name == "one number"


@pytest.mark.parametrize("tensor", [torch.tensor([1.0, torch.nan]), torch.zeros(2, dtype=torch.float64)])
def test_constants_that_no_graph_holds(tensor: Tensor):
    with pytest.raises(Missing):
        encoded(tensor)
