"""Recurrent layers, writes into parts of tensors, counted positions and shared heads: rebuilt bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from collegium.search.describe.describe import describe
from collegium.search.describe.trace import tensors_in
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.parse import parse_spec
from collegium.search.regroup.grouped import GraphNetwork


def rebuilt(model: nn.Module, example: Any) -> GraphNetwork:
    """The network of the module's description as a service receives it, with the module's numbers."""
    described = describe(model, example)
    assert described.no_graph is None
    posted = json.loads(json.dumps(described.model_dump(mode="json")))
    network = build_network(parse_spec(NetworkBaseline, posted))
    made = GraphNetwork(**network.arguments(network.baseline, network.multiplicity))
    assert list(made.state_dict()) == list(model.state_dict())
    made.load_state_dict(model.state_dict())
    return made.train(model.training)


class Recurrent(nn.Module):
    """A head on the outputs of a recurrent layer, on its last hidden states, or on those of its cells."""

    def __init__(self, cell: type[nn.RNNBase], reads: str, **options: Any) -> None:
        super().__init__()
        self.cell, self.reads = cell(5, 6, **options), reads
        self.head = nn.Linear(12 if reads == "outputs" and options.get("bidirectional") else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, last = self.cell(x if self.cell.batch_first else x.transpose(0, 1))
        if self.reads == "outputs":
            return self.head(outputs[:, -1] if self.cell.batch_first else outputs[-1])
        hidden = last[0] if isinstance(last, tuple) else last
        found = self.head(hidden[-1])
        return found + self.head(last[1][0]) if self.reads == "cells" else found


STACKED = {"num_layers": 2, "bidirectional": True, "dropout": 0.3}
CELLS: list[tuple[type[nn.RNNBase], str, dict[str, Any]]] = [
    (nn.LSTM, "outputs", {"batch_first": True}),
    (nn.LSTM, "hidden", {"batch_first": True, **STACKED}),
    (nn.LSTM, "cells", {"batch_first": False, **STACKED}),
    (nn.GRU, "outputs", {"batch_first": False, **STACKED}),
    (nn.GRU, "hidden", {"batch_first": True, "bias": False}),
    (nn.RNN, "outputs", {"batch_first": True, **STACKED}),
    (nn.RNN, "hidden", {"batch_first": False, "nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("cell", "reads", "options"), CELLS)
def test_a_recurrent_layer_is_the_modules(cell: type[nn.RNNBase], reads: str, options: dict[str, Any]):
    torch.manual_seed(0)
    model = Recurrent(cell, reads, **options).eval()
    x = torch.randn(3, 4, 5)
    made = rebuilt(model, x[:1])
    assert torch.equal(made(x), model(x))
    drawn = GraphNetwork(**_arguments(model, x[:1]))
    for name, parameter in drawn.named_parameters():
        if name.startswith("cell"):  # uniform between ±1/√hidden, as PyTorch's own
            assert 0.3 < float(parameter.detach().abs().max()) * 6**0.5 <= 1 + 1e-6, name


def _arguments(model: nn.Module, example: Any) -> dict[str, Any]:
    network = build_network(describe(model, example))
    return network.arguments(network.baseline, network.multiplicity)


def test_costs_of_a_recurrent_layer_are_those_of_its_products():
    model = Recurrent(nn.LSTM, "hidden", batch_first=True, **STACKED)
    described = describe(model.eval(), torch.zeros(1, 4, 5))
    first, second = 2 * (24 * 5 + 24 * 6), 2 * (24 * 12 + 24 * 6)
    assert described.flops == 4 * (first + second) + 6 * 3
    network = build_network(described)
    parts = network.footprints(network.stage_groupings(network.baseline, network.multiplicity))
    assert sum(part.parameters for part in parts) == sum(each.numel() for each in model.parameters())
    gates = 4 * 2 * 6 * 4 * 2  # of each step, direction, hidden number and layer
    assert network.features_of(network.stage_groupings(network.baseline, network.multiplicity)) > gates


class Started(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.start = nn.GRU(5, 6, batch_first=True), nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x, self.start.expand(1, len(x), 6).contiguous())[0][:, -1]


class Encoded(nn.Module):
    """A decoder that starts from the last states of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (nn.LSTM(5, 6, num_layers=2, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        _, states = self.encoder(x)
        outputs, (hidden, _) = self.decoder(2 * x, states)
        return outputs[:, -1] + hidden[0]


class Twice(nn.Module):
    """One layer that is called twice; of one call, the first or the second, the last states are read too."""

    def __init__(self, cell: type[nn.RNNBase], first: bool) -> None:
        super().__init__()
        self.cell, self.first = cell(5, 5, batch_first=cell is nn.GRU), first

    def forward(self, x: Tensor) -> Tensor:
        one, states = self.cell(x if self.cell.batch_first else x.transpose(0, 1))
        if self.first:
            return self.cell(one, states)[0][:, -1] if self.cell.batch_first else self.cell(one, states)[0][-1]
        last = self.cell(one)[1]
        return one[:, -1] + last[0] if self.cell.batch_first else one[-1] + last[0][0] + last[1][0]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_a_recurrent_layer_is_called_twice_and_gives_states_once(cell: type[nn.RNNBase], first: bool):
    torch.manual_seed(0)
    model, x = Twice(cell, first).eval(), torch.randn(3, 4, 5)
    assert torch.equal(rebuilt(model, x[:1])(x), model(x))


@pytest.mark.parametrize("made", [Started, Encoded])
def test_a_recurrent_layer_starts_from_what_it_is_given(made: type[nn.Module]):
    torch.manual_seed(0)
    model, x = made().eval(), torch.randn(3, 4, 5)
    assert torch.equal(rebuilt(model, x[:1])(x), model(x))


class Stepped(nn.Module):
    """A cell step by step, from zeros or from a state that is learned, and a head on its last state."""

    def __init__(self, cell: nn.RNNCellBase, start: bool) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(6, 3)
        self.start = nn.Parameter(torch.randn(6)) if start else None

    def forward(self, x: Tensor) -> Tensor:
        first = None if self.start is None else self.start.expand(len(x), 6)
        state: Any = (first, first) if first is not None and isinstance(self.cell, nn.LSTMCell) else first
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state[0] + state[1] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize(
    "cell",
    [
        nn.LSTMCell(5, 6),
        nn.LSTMCell(5, 6, bias=False),
        nn.GRUCell(5, 6),
        nn.GRUCell(5, 6, bias=False),
        nn.RNNCell(5, 6),
        nn.RNNCell(5, 6, nonlinearity="relu"),
    ],
    ids=repr,
)
def test_a_cell_is_what_it_computes_step_by_step(cell: nn.RNNCellBase, start: bool):
    torch.manual_seed(0)
    cell.reset_parameters()
    model, x = Stepped(cell, start).eval(), torch.randn(3, 4, 5)
    torch.testing.assert_close(rebuilt(model, x[:1])(x), model(x))
    gates = cell.weight_hh.shape[0]
    assert describe(model, x[:1]).flops == 4 * gates * (5 + 6) + 6 * 3
    drawn = GraphNetwork(**_arguments(model, x[:1]))
    for name, parameter in drawn.named_parameters():
        if name.startswith("cell"):  # uniform between ±1/√hidden, as PyTorch's own
            assert 0.3 < float(parameter.detach().abs().max()) * 6**0.5 <= 1 + 1e-6, name


class Outputs(nn.Module):
    """The outputs of a recurrent layer alone."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Outputs(nn.LSTM(5, 6, proj_size=2, batch_first=True)), "'lstm' in cell (rnn.py"),
        (Outputs(nn.LSTM(5, 6, proj_size=2, batch_first=True)), "it has projections"),
        (Outputs(nn.GRU(5, 6)), "reads (steps, samples, 5 numbers)"),  # steps along the axis of samples
    ],
)
def test_recurrent_layers_without_a_graph_are_named_with_the_reason(model: nn.Module, reason: str):
    found = describe(model.eval(), torch.zeros(1, 4, 5))
    assert found.graph is None
    assert reason in str(found.no_graph)


class Written(nn.Module):
    """A linear layer, and what is written into its result."""

    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.write = nn.Linear(8, 6), write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.linear(x).reshape(-1, 2, 3))


def _slices(y: Tensor) -> Tensor:
    z = y.clone()
    z[:, 0, 1:] = 0
    z[:, 1] *= 2
    z[:, :, 0] = y[:, :, 2]
    z[:, 1:][:, 0, -2:].add_(1)
    return z


def _of_zeros(y: Tensor) -> Tensor:
    z = torch.zeros_like(y)
    z[:, :1] = y[:, 1:]
    z[:, 1:].copy_(y[:, :1, :1])
    return z * y


def _whole(y: Tensor) -> Tensor:
    z = y.clone()
    z[:, 0].zero_()
    z.fill_(2.0)
    z[..., 1].copy_(y.sum(2))
    return z


def _again(y: Tensor) -> Tensor:
    z = y.clone()
    part = z[:, 1].mul_(3)
    return z + part[:, None]


@pytest.mark.parametrize("write", [_slices, _of_zeros, _whole, _again])
def test_what_is_written_into_a_part_is_read_later(write: Callable[[Tensor], Tensor]):
    torch.manual_seed(0)
    model, x = Written(write).eval(), torch.randn(3, 8)
    assert torch.equal(rebuilt(model, x[:1])(x), model(x))


def _stale(y: Tensor) -> Tensor:
    z = y.clone()
    before = z[:, 0]
    z[:, 0, 1:] = 0
    return z + before[:, None]


def _stepped(y: Tensor) -> Tensor:
    z = y.clone()
    z[:, :, ::2] = 0
    return z


@pytest.mark.parametrize("write", [_stale, _stepped])
def test_writes_that_are_not_known_are_named(write: Callable[[Tensor], Tensor]):
    found = describe(Written(write), torch.zeros(1, 8))
    assert found.no_graph is not None
    assert "it writes into a part of another tensor" in found.no_graph
    assert "test_operators.py:" in found.no_graph


class Cosine(nn.Module):
    """As in Swin v2: the keys' part of a bias is set to zero, in a copy of the parameter."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.qkv.bias.clone()
        length = bias.numel() // 3
        bias[length : 2 * length].zero_()
        q, k, v = functional.linear(x, self.qkv.weight, bias).chunk(3, -1)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        return self.proj(((q @ k.transpose(-2, -1)).softmax(-1) @ v).mean(1))


class Shared(nn.Module):
    """Four heads of queries on two of keys and values."""

    def __init__(self, heads: int = 2, masked: bool = False) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(8, 16), nn.Linear(8, 8 * heads), nn.Linear(16, 3)
        self.heads, self.masked = heads, masked

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, 4, 4).transpose(1, 2)
        k, v = self.kv(x).view(batch, tokens, 2, self.heads, 4).permute(2, 0, 3, 1, 4)
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril() if self.masked else None
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, 16)[:, -1])


class Counted(nn.Module):
    """Positions counted from what is no padding, and running sums of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(9, 6, padding_idx=0), nn.Embedding(8, 6)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids.ne(0).int()
        places = (torch.cumsum(mask, 1).type_as(mask) * mask).long() + 1
        return (self.embedding(ids) + self.places(places)).cumsum(1)[:, -1]


@pytest.mark.parametrize("model", [Cosine(), Shared(), Shared(4), Shared(1, masked=True)])
def test_biases_in_part_and_shared_heads(model: nn.Module):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    assert torch.equal(rebuilt(model.eval(), x[:1])(x), model(x))


def test_attention_with_shared_heads_has_the_flops_of_all_queries():
    one, all_ = (describe(Shared(heads), torch.zeros(1, 5, 8)) for heads in (1, 4))
    products = 2 * 4 * 5 * 5 * 4
    assert one.flops - 5 * 8 * (16 + 8) - 16 * 3 == products
    assert all_.flops - 5 * 8 * (16 + 32) - 16 * 3 == products


def test_positions_are_counted_within_their_table():
    torch.manual_seed(0)
    model, ids = Counted().eval(), torch.tensor([[1, 2, 3, 4, 5], [1, 0, 0, 7, 8], [0, 0, 0, 0, 1]])
    assert torch.equal(rebuilt(model, ids[:1])(ids), model(ids))
    found = describe(model, torch.ones(1, 9, dtype=torch.long))  # up to the tenth place of a table of eight
    assert found.no_graph is not None
    assert "indices from 1 to 10 are not within an axis of 8" in found.no_graph


class Picked(nn.Module):
    """Of every sample the tokens that score highest, and the channel that does."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.rows = nn.Linear(4, 2), nn.Linear(4, 3)
        self.table = nn.Embedding(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = self.score(x).argmax(1)
        picked = self.rows(x)[torch.arange(len(x))[:, None], places]
        return picked.sum(1) + self.table(x.mean(1, keepdim=True).argmax(dim=-1, keepdim=True))[:, 0, 0]


def test_places_that_the_input_decides_are_read():
    torch.manual_seed(0)
    model, x = Picked().eval(), torch.randn(5, 6, 4)
    assert torch.equal(rebuilt(model, x[:1])(x), model(x))


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def _roberta() -> nn.Module:
    config = transformers.RobertaConfig(vocab_size=50, **SMALL, max_position_embeddings=16)
    return transformers.RobertaForSequenceClassification(config)


def _gpt2() -> nn.Module:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, **sizes))


def _gpt2_classifier() -> nn.Module:
    """Logits at the last token that is no padding."""
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(vocab_size=50, **sizes, pad_token_id=1, num_labels=3)
    return transformers.GPT2ForSequenceClassification(config)


@pytest.mark.parametrize("make", [_roberta, _gpt2, _gpt2_classifier])  # the second with the caches of a first step
def test_transformers_that_count_positions_and_keep_caches(make: Callable[[], nn.Module]):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.randint(2, 50, (3, 8))
    ids[1, 5:] = 1  # padding
    example = {"input_ids": ids[:1]}
    expected = next(tensors_in(model(ids)))
    assert torch.equal(rebuilt(model, example)(ids), expected)
