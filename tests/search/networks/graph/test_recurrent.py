"""Untrusted recurrent layers, shared heads and sums of integers: lies are refused by field, by arithmetic alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.graph.infer import GraphError, infer
from collegium.search.networks.graph.spec import Graph
from collegium.search.parse import parse_spec


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0][:, -1])


@pytest.fixture(scope="module")
def posted() -> dict[str, Any]:
    torch.manual_seed(0)
    return describe(Last(), torch.zeros(1, 4, 5), name="net").model_dump(mode="json")


LAYER = "baseline.graph.layers[0]"
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "another cell": ({"cell": "gru"}, "parameters: the graph has"),
    "a wider state": ({"hidden": 7}, "baseline.graph.nodes"),
    "a huge state": ({"hidden": 10**6}, "baseline.graph.nodes"),
    "other inputs": ({"inputs": 6}, "nodes[0]: 'cell' reads (samples, steps, 6 numbers)"),
    "samples elsewhere": ({"batch_first": False}, "nodes[0]: 'cell' reads (steps, samples, 5 numbers)"),
    "both directions": ({"bidirectional": True}, "graph.layers[0]: laws must be those of weight_ih_l0"),
    "more layers": ({"count": 2}, "graph.layers[0]: laws must be those of"),
    "too many layers": ({"count": 65}, "graph.layers[0].count"),
    "no biases": ({"bias": False}, "'bias_hh_l0' is not right"),
    "states that nothing reads": ({"states": True}, "baseline.graph.nodes[2]"),
    "dropout": ({"dropout": 0.5}, "it must be 0"),
    "an unknown cell": ({"cell": "__import__"}, "graph.layers[0].cell"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_recurrent_layer_is_refused_by_field(posted: dict[str, Any], lie: str):
    change, expected = LIES[lie]
    changed = copy.deepcopy(posted)
    (layer,) = (each for each in changed["graph"]["layers"] if each["kind"] == "recurrent")
    assert changed["graph"]["layers"].index(layer) == 0
    layer.update(change)
    with pytest.raises(InvalidSpec) as refused:
        build_network(parse_spec(NetworkBaseline, changed))
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([0, 0], "nodes[0]: 'cell' starts from 2 states of (1, -1, 6), or from none, and not"),
        ([0, 0, 0], "nodes[0]: 'cell' starts from 2 states of (1, -1, 6), or from none, and not"),
        ([0, 0, 0, 0], "nodes[0]: it reads 4 tensors where 1 to 3 are expected"),
    ],
)
def test_a_lie_about_what_it_starts_from_is_refused(posted: dict[str, Any], reads: list[int], expected: str):
    changed = copy.deepcopy(posted)
    changed["graph"]["nodes"][0]["reads"] = reads
    with pytest.raises(InvalidSpec) as refused:
        build_network(parse_spec(NetworkBaseline, changed))
    assert expected in str(refused.value)


def test_laws_of_other_names_are_refused(posted: dict[str, Any]):
    changed = copy.deepcopy(posted)
    laws = changed["graph"]["layers"][0]["laws"]
    laws["forward"] = laws.pop("weight_ih_l0")
    with pytest.raises(InvalidSpec, match="laws"):
        parse_spec(NetworkBaseline, changed)


def node(op: str, reads: list[int], **options: Any) -> dict[str, Any]:
    return {"op": op, "reads": reads, "options": options}


def graph(nodes: list[dict[str, Any]], **inputs: Any) -> Graph:
    table = {"kind": "parameter", "path": "table", "shape": (8, 2), "weight": {"kind": "normal", "value": 1.0}}
    listed = ({"name": "x", "shape": (6,), **inputs},) if inputs else ()
    return Graph.model_validate({"layers": (table,), "nodes": tuple(nodes), "inputs": listed})


TABLE = {"op": "parameter", "layer": "table"}
INTEGERS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "sums": ([node("cumsum", [0], axis=1), TABLE, node("take", [2, 1], axis=0)], "indices from 0 to 18"),
    "a shift": ([node("add_number", [0], number=5), TABLE, node("take", [2, 1], axis=0)], "indices from 5 to 8"),
    "a negative shift": ([node("add_number", [0], number=-1), TABLE, node("take", [2, 1], axis=0)], "from -1 to 2"),
    "a product": ([node("mul", [0, 0]), TABLE, node("take", [2, 1], axis=0)], "indices from 0 to 9"),
    "half of one": ([node("multiply_number", [0], number=0.5)], "the option 'number' must be whole"),
    "of numbers": ([node("as_number", [0]), node("add", [0, 1])], "it works with numbers, and reads integers"),
    "places": (
        [node("argmax", [0], axis=1), node("add_number", [1], number=3), TABLE, node("take", [3, 2], axis=0)],
        "indices from 3 to 8",
    ),
    "places of the batch": ([node("argmax", [0], axis=0)], "the axis 0 of batch×6 is that of the batch"),
    "of no booleans": ([node("as_integer", [0])], "it reads booleans, and these are integers"),
    "beyond": ([node("multiply_number", [0], number=10**9), node("mul", [1, 1])], r"are beyond 2\^53"),
    "the batch": ([node("cumsum", [0], axis=0)], "the axis 0 of batch×6 is that of the batch"),
}


@pytest.mark.parametrize("lie", INTEGERS)
def test_integers_have_bounds_before_anything_is_computed(lie: str):
    nodes, expected = INTEGERS[lie]
    with pytest.raises(GraphError, match=expected):
        infer(graph(nodes, content="integer", below=4), (6,))


def test_sums_of_integers_within_their_table_are_taken():
    nodes = [node("compare", [0], relation="greater", number=0), node("as_integer", [1]), node("cumsum", [2], axis=1)]
    nodes += [node("add_number", [3], number=1), TABLE, node("take", [5, 4], axis=0)]
    assert infer(graph(nodes, content="integer", below=4), (6,)).output == (-1, 6, 2)


HEADS: dict[str, tuple[list[int], str]] = {
    "three on two": ([-1, 3, 4, 5], "a multiple of those of keys"),
    "fewer queries": ([-1, 1, 4, 5], "a multiple of those of keys"),
    "other widths": ([-1, 4, 4, 6], "do not fit"),
}


@pytest.mark.parametrize("lie", HEADS)
def test_shared_heads_that_do_not_fit_are_refused(lie: str):
    shape, expected = HEADS[lie]
    size = abs(shape[1] * shape[2] * shape[3])
    nodes = [node("slice", [0], axis=1, start=0, end=size, step=1), node("reshape", [1], shape=tuple(shape))]
    nodes += [node("slice", [0], axis=1, start=0, end=40, step=1), node("reshape", [3], shape=(-1, 2, 4, 5))]
    nodes += [node("shared_attention", [2, 4, 4], scale=1.0, causal=False, dropout=0.0)]
    with pytest.raises(GraphError, match=expected):
        infer(graph(nodes), (200,))
    nodes[0]["options"]["end"], nodes[1]["options"]["shape"] = 80, (-1, 4, 4, 5)
    assert infer(graph(nodes), (200,)).output == (-1, 4, 4, 5)


def test_the_most_layers_are_checked_before_any_has_numbers():
    layer = {"kind": "recurrent", "path": "r", "cell": "lstm", "inputs": 5, "hidden": 6, "count": 64, "laws": {}}
    with pytest.raises(ValidationError, match="laws must be those of"):
        Graph.model_validate({"layers": (layer,), "nodes": (node("relu", [0]),)})
