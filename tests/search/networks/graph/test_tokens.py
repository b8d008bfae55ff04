"""Networks of text as functions of tokens alone: masks, types and positions are made of them, and shorter texts fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collegium.search.describe.describe import describe
from collegium.search.errors import SampleMismatch
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.graph.content import UNBOUNDED, Input
from collegium.search.networks.graph.tokens import UnknownInput, token_roles
from collegium.search.regroup.grouped import GraphNetwork as Module

LENGTH, BELOW = 9, 20
IDS = torch.tensor([[5, 7, 3, 1, 0, 0], [4, 9, 8, 19, 6, 1]])
PADDED = nn.functional.pad(IDS, (0, LENGTH - IDS.shape[1]))


class Classifier(nn.Module):
    """PyTorch's encoder; the mask comes first, and places, types and a weight of each token are given too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.kind = nn.Embedding(BELOW, 16), nn.Embedding(LENGTH, 16), nn.Embedding(2, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(
        self,
        key_padding_mask: Tensor,
        tokens: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        mask: Tensor,
    ) -> Tensor:
        x = self.embed(tokens) + self.place(position_ids) + self.kind(token_type_ids)
        x = self.encoder(x, src_key_padding_mask=key_padding_mask)
        return self.head((x * mask[..., None]).sum(1))


def given(ids: Tensor) -> tuple[Tensor, ...]:
    places = torch.arange(LENGTH).expand(len(ids), -1)
    return ids == 0, ids, places, torch.zeros_like(ids), (ids != 0).float()


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


@pytest.fixture(scope="module")
def network(model: Classifier) -> GraphNetwork:
    described = describe(model, given(PADDED))
    assert described.graph is not None, described.no_graph
    found = build_network(described)
    assert isinstance(found, GraphNetwork)
    return found


def built(network: GraphNetwork, model: nn.Module) -> nn.Module:
    arguments: dict[str, Any] = network.arguments(network.baseline, network.multiplicity)
    module = Module(**arguments)
    module.load_state_dict(model.state_dict())
    return module.eval()


def test_inputs_that_follow_from_tokens_are_made_of_them(network: GraphNetwork, model: Classifier):
    assert network.token_roles == ("padded", "tokens", "positions", "types", "kept")
    whole = network.with_tokens(LENGTH)
    assert [(each.name, each.below) for each in whole.reads] == [("tokens", BELOW)]
    with torch.no_grad():
        torch.testing.assert_close(built(whole, model)(PADDED), model(*given(PADDED)))


def test_shorter_texts_are_followed_by_padding(network: GraphNetwork, model: Classifier):
    short = network.with_tokens(IDS.shape[1], BELOW)
    assert (short.described.input, short.outputs) == ((6,), 3)
    assert short.described.flops == network.described.flops
    with torch.no_grad():
        torch.testing.assert_close(built(short, model)(IDS), model(*given(PADDED)))


def test_what_it_costs_is_what_it_cost(network: GraphNetwork):
    short = network.with_tokens(6)
    stages = short.stage_groupings(short.baseline, short.multiplicity)
    assert short.count_stages("parameters", stages) == network.described.parameters
    assert short.regrouped(stages).parameters == network.described.parameters


@pytest.mark.parametrize(
    ("length", "below", "message", "remedy"),
    [
        (10, None, "has sequences of 10 tokens and the described network reads 9 as 'tokens'", "a length of 9 or less"),
        (9, 21, "has a vocabulary of 21 tokens and 'tokens' of the described network is below 20", "of 20 or less"),
    ],
)
def test_longer_texts_and_larger_vocabularies_are_refused(
    network: GraphNetwork, length: int, below: int | None, message: str, remedy: str
):
    with pytest.raises(SampleMismatch) as refused:
        network.with_tokens(length, below)
    assert message in refused.value.message
    assert remedy in refused.value.remedy


class OwnPadding(nn.Module):
    """Positions that are counted from what is no padding, which is a token of its own, and a mask beside them."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.embed, self.padding = nn.Embedding(BELOW, 8, padding_idx=padding), padding or 0
        self.place, self.head = nn.Embedding(LENGTH + 1, 8), nn.Linear(8, 3)

    def forward(self, mask: Tensor, ids: Tensor) -> Tensor:
        own = ids.reshape(-1, LENGTH)
        real = own.ne(self.padding).int()
        x = self.embed(own) + self.place((real.cumsum(1) * real).long())
        return self.head((x * mask[..., None]).sum(1))


@pytest.mark.parametrize("padding", [1, 3, BELOW - 1, 0, None])
def test_padding_is_exchanged_with_the_networks_own(padding: int | None):
    torch.manual_seed(0)
    model, own = OwnPadding(padding).eval(), padding or 0
    described = describe(model, (torch.ones(2, LENGTH), torch.zeros(2, LENGTH, dtype=torch.long)))
    assert described.graph is not None, described.no_graph
    network = build_network(described)
    assert isinstance(network, GraphNetwork)
    assert network.own_padding == padding
    short = network.with_tokens(IDS.shape[1], BELOW)
    assert short.reads[0].below == BELOW
    order = torch.arange(BELOW)
    order[[0, own]] = order[[own, 0]]
    every = torch.arange(BELOW)[:, None].expand(-1, LENGTH)
    with torch.no_grad():
        torch.testing.assert_close(built(short, model)(IDS), model((PADDED != 0).float(), order[PADDED]))
        whole = built(network.with_tokens(LENGTH), model)
        torch.testing.assert_close(whole(every), model((every != 0).float(), order[every]))


def test_a_network_of_numbers_reads_no_tokens():
    network = build_network(describe(nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 6)))
    assert isinstance(network, GraphNetwork)
    assert network.token_roles is None
    assert network.own_padding is None
    with pytest.raises(SampleMismatch, match="describe one that reads tokens"):
        network.with_tokens(6)


def tensor(name: str, content: Any = "integer", shape: tuple[int, ...] = (6,), below: int | None = UNBOUNDED) -> Input:
    return Input(name=name, content=content, shape=shape, below=below if content == "integer" else None)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (tensor("context", below=50), "'context' does not follow from the tokens 'ids'"),
        (tensor("scale", "number"), "'scale' does not follow from the tokens 'ids'"),
        (tensor("attention_mask", "boolean", (6, 6)), r"'attention_mask' has the shape \(6, 6\)"),
        (tensor("position_ids", "number"), "'position_ids' must be integers"),
        (tensor("position_ids", below=5), "'position_ids' is below 5, and there are 6 tokens"),
    ],
)
def test_inputs_that_no_text_gives_are_refused_by_their_place(other: Input, message: str):
    with pytest.raises(UnknownInput, match=message) as refused:
        token_roles([tensor("ids", below=50), other])
    assert refused.value.place == 1


def test_integers_that_index_no_table_are_no_tokens():
    assert token_roles([tensor("ids")]) is None
    assert token_roles([tensor("attention_mask", below=2)]) is None
