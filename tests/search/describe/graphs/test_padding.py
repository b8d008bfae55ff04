"""Tables of embeddings whose row of padding starts at zero and has no gradient, as in the module itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.parse import parse_spec
from collegium.search.regroup.grouped import GraphNetwork
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.inputs.samples import Samples
from collegium.search.whole_network.kernel import NetworkKernel
from collegium.search.whole_network.spec import NetworkKernelSpec

ROWS, WIDTH = 7, 4
IDS = torch.tensor([[2, 0, 5, 5, 2], [3, 2, 2, 1, 6], [0, 1, 3, 4, 5]])


class Padded(nn.Module):
    """A table whose third row is padding, behind a head that may be tied to it."""

    def __init__(self, padding: int | None = 2, tied: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, ROWS)  # before the table: the first name of a tied weight is the head's
        self.table = nn.Embedding(ROWS, WIDTH, padding_idx=padding)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(ids)).mean(1))


class TwoWays(nn.Module):
    """One table that is read with and without padding, and of which another row is padding elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(ROWS, WIDTH)), nn.Linear(WIDTH, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = functional.embedding(ids, self.table, padding_idx=2) + functional.embedding(ids + 0, self.table)
        return self.head((x * functional.embedding(ids, self.table, padding_idx=5)).sum(1))


def posted(model: nn.Module) -> dict[str, Any]:
    described = describe(model, IDS)
    assert described.no_graph is None
    return json.loads(json.dumps(described.model_dump(mode="json")))


def built(description: dict[str, Any]) -> GraphNetwork:
    network = build_network(parse_spec(NetworkBaseline, description))
    return GraphNetwork(**network.arguments(network.baseline, network.multiplicity))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    loss = model(IDS).square().sum()
    names, values = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


@pytest.mark.parametrize("make", [Padded, lambda: Padded(-5), lambda: Padded(tied=True), TwoWays])
def test_gradients_are_those_of_the_module_bit_for_bit(make: Any):
    torch.manual_seed(0)
    model = make()
    rebuilt = built(posted(model))
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt(IDS), model(IDS))
    expected, found = gradients(model), gradients(rebuilt)
    assert expected.keys() == found.keys()
    assert all(torch.equal(each, found[name]) for name, each in expected.items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_row_of_padding_starts_at_zero_and_the_others_by_their_law(tied: bool, device: str):
    torch.manual_seed(0)
    with torch.device(device):
        model = Padded(tied=tied)
    rebuilt = built(posted(model))
    table = rebuilt.get_parameter("head.weight" if tied else "table.weight")
    assert not table[2].any()
    assert table[[0, 1, 3, 4, 5, 6]].all()
    assert not tied or rebuilt.get_submodule("table")._parameters["weight"] is table


def test_the_law_is_that_of_the_rows_that_are_drawn():
    model = Padded()
    nn.init.constant_(model.table.weight, 0.5)
    with torch.no_grad():
        model.table.weight[2] = 0
    graph = describe(model, IDS).graph
    assert graph is not None
    (law,) = (layer.weight for layer in graph.layers if layer.path == "table.weight")  # type: ignore[union-attr]
    assert (law.kind, law.value) == ("constant", 0.5)  # type: ignore[union-attr]


def test_a_row_of_padding_that_has_numbers_is_drawn_and_stays_as_it_is_drawn():
    model = Padded()
    nn.init.normal_(model.table.weight)  # as code that overwrites the row of padding does
    rebuilt = built(posted(model))
    assert rebuilt.get_parameter("table.weight")[2].all()
    assert not gradients(rebuilt)["table.weight"][2].any()


def test_older_descriptions_have_no_padding():
    model = Padded()
    description = posted(model)
    (take,) = (node for node in description["graph"]["nodes"] if node["op"] == "take")
    assert take["options"].pop("padding") == 2
    (table,) = (layer for layer in description["graph"]["layers"] if layer["kind"] == "parameter")
    assert table.pop("zero_rows") == [2]
    rebuilt = built(description)
    assert rebuilt.get_parameter("table.weight")[2].all()
    assert gradients(rebuilt)["table.weight"][2].any()
    unpadded = posted(Padded(None))  # and new ones of tables without padding are written as they were
    assert all("padding" not in node["options"] for node in unpadded["graph"]["nodes"])
    assert all("zero_rows" not in layer for layer in unpadded["graph"]["layers"])


LIES: dict[str, tuple[Any, str]] = {
    "a row beyond": (lambda take, table: take["options"].update(padding=ROWS), "must be a row of the table, from 0 to"),
    "a row below": (lambda take, table: take["options"].update(padding=-1), "a row of the table, from 0 to 6, not -1"),
    "no row": (lambda take, table: take["options"].update(padding=True), "'padding' must be an integer"),
    "a column": (lambda take, table: take["options"].update(axis=1, padding=2), "of two axes, along the first"),
    "a zero row beyond": (lambda take, table: table.update(zero_rows=[ROWS]), "zero_rows must be rows of the shape"),
    "a zero row below": (lambda take, table: table.update(zero_rows=[-1]), "zero_rows[0]"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_where_it_is(lie: str):
    change, message = LIES[lie]
    description = posted(Padded())
    (take,) = (node for node in description["graph"]["nodes"] if node["op"] == "take")
    (table,) = (layer for layer in description["graph"]["layers"] if layer["kind"] == "parameter")
    change(take, table)
    with pytest.raises(InvalidSpec) as refused:
        build_network(parse_spec(NetworkBaseline, description))
    assert message in str(refused.value)


@pytest.mark.parametrize("together", [True, False])
def test_the_row_of_padding_has_no_part_in_the_kernel(together: bool, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    described = describe(Padded(), IDS)
    network = build_network(described)
    candidate = Candidate("baseline", network, network.baseline, network.multiplicity)
    assert candidate.at_once("cpu") > 1
    if not together:
        monkeypatch.setattr(Candidate, "at_once", lambda self, device: 1)
    samples = Samples((IDS.numpy(),))
    kernel = NetworkKernel(candidate, NetworkKernelSpec(images=3, inputs=1, outputs=1), samples, "cpu")
    (gram,) = kernel.draw(5, [0])
    drawn = kernel._initialization.draw(int(np.random.SeedSequence([5, 0]).generate_state(1, np.uint64)[0] >> 1))
    assert not drawn["table.weight"][2].any()
    model = Padded()
    model.load_state_dict(drawn)
    found = torch.autograd.grad(model(IDS[:1])[0, 0], list(model.parameters()))
    assert gram[0, 0, 0] == pytest.approx(sum(each.square().sum().item() for each in found), rel=1e-5)
