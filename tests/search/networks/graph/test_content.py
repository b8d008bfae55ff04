"""Untrusted graphs with indices, masks and constants: what is out of range or of another kind is refused by field."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.latency.workload import Workload
from collegium.search.networks.build import build_network, validate_search
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.graph.content import MAX_CONSTANT, ConstantLayer
from collegium.search.networks.graph.infer import GraphError, infer
from collegium.search.networks.graph.spec import Graph
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.spec import NetworkKernelSpec


class Lookup(nn.Module):
    """A table read by ids, one of places, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.table = nn.Embedding(50, 4), nn.Parameter(torch.randn(9, 4))
        self.register_buffer("places", torch.tensor([8, 0, 3]))
        self.register_buffer("mask", torch.tensor([[True], [False], [True]]))
        layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)]
        self.head = nn.Sequential(*layers)

    def forward(self, ids: Tensor, weight: Tensor) -> Tensor:
        x = (self.embed(ids) + self.table[self.places]).masked_fill(self.mask, 0.5)
        return self.head((x * weight[..., None]).sum(1))


@pytest.fixture(scope="module")
def posted() -> dict[str, Any]:
    torch.manual_seed(0)
    example = (torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3))
    return describe(Lookup(), example, name="net").model_dump(mode="json")


def layer(posted: dict[str, Any], path: str) -> dict[str, Any]:
    return next(each for each in posted["graph"]["layers"] if each["path"] == path)


def node(posted: dict[str, Any], op: str) -> dict[str, Any]:
    return next(each for each in posted["graph"]["nodes"] if each["op"] == op)


LIES: dict[str, tuple[Any, str]] = {
    "ids": (lambda p: p["graph"]["inputs"][0].update(below=51), "indices from 0 to 50 are not within an axis of 50"),
    "no bound": (lambda p: p["graph"]["inputs"][0].update(below=None), "graph.inputs[0]"),
    "numbers": (lambda p: p["graph"]["inputs"][0].update(content="number", below=None), "its indices must be integers"),
    "negative": (lambda p: layer(p, "places").update(values=[8, -1, 3]), "indices from -1 to 8"),
    "beyond": (
        lambda p: layer(p, "places").update(values=[9, 0, 3]),
        "indices from 0 to 9 are not within an axis of 9",
    ),
    "fewer": (lambda p: layer(p, "places").update(values=[8, 0]), "values must have 3 numbers"),
    "fractions": (lambda p: layer(p, "places").update(values=[8, 0.5, 3]), "integers are expected"),
    "no mask": (lambda p: layer(p, "mask").update(content="number"), "it reads numbers where booleans are expected"),
    "a third truth": (lambda p: layer(p, "mask").update(values=[1, 2, 0]), "booleans are 0 and 1"),
    "a large mask": (lambda p: layer(p, "mask").update(shape=[7, 1], values=[1] * 7), "do not fit"),
    "a huge mask": (
        lambda p: layer(p, "mask").update(shape=[2**23, 1], values=None, start=1, steps=[0, 0]),
        "and a constant has 4194304 at most",
    ),
    "two forms": (lambda p: layer(p, "mask").update(start=1, steps=[0, 0]), "either values, or start with steps"),
    "another input": (lambda p: node(p, "input")["options"].update(place=2), "'place' must be from 1 to 1"),
    "the first input": (lambda p: node(p, "input")["options"].update(place=0), "'place' must be from 1 to 1"),
    "a shape": (lambda p: p["graph"]["inputs"][0].update(shape=[4]), "graph.inputs[0]: the shape must be that of"),
    "a parameter": (lambda p: node(p, "constant").update(layer="table"), "'table' is a parameter"),
    "a layer": (lambda p: node(p, "constant").update(op="layer", reads=[0]), "is a constant"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_within_its_bounds_is_refused(posted: dict[str, Any], lie: str):
    change, expected = LIES[lie]
    own = copy.deepcopy(posted)
    change(own)
    with pytest.raises(InvalidSpec) as refused:
        build_network(parse_spec(NetworkBaseline, own))
    assert expected in str(refused.value)
    assert "graph." in str(refused.value)


def test_it_is_measured_and_timed_and_not_trained_here(posted: dict[str, Any]):
    baseline = parse_spec(NetworkBaseline, posted)
    network = build_network(baseline)
    assert isinstance(network, GraphNetwork)
    with pytest.raises(SampleMismatch, match="takes 2 tensors: ids, weight"):
        network.repeated_channels((3,))
    assert [(each.name, each.content) for each in network.reads] == [("ids", "integer"), ("weight", "number")]
    validate_search(SearchSpec(baseline=baseline, verify="network", workload=Workload()))
    with pytest.raises(InvalidSpec, match=r"network\.output: a network that is built here has one output"):
        validate_search(SearchSpec(baseline=baseline, verify="network", network=NetworkKernelSpec(output="logits")))
    with pytest.raises(InvalidSpec, match=r"workload\.image_size"):
        validate_search(SearchSpec(baseline=baseline, workload=Workload(image_size=8)))
    with pytest.raises(InvalidSpec, match=r"network\.pixels"):
        validate_search(SearchSpec(baseline=baseline, verify="network", network=NetworkKernelSpec(pixels=8)))


def test_constants_are_bounded_together():
    fill = {"kind": "constant", "shape": [MAX_CONSTANT], "content": "number", "start": 0, "steps": [1]}
    layers = [{**fill, "path": f"c{index}"} for index in range(5)]
    with pytest.raises(ValidationError, match="its constants have 20971520 numbers"):
        Graph.model_validate({"layers": layers, "nodes": [{"op": "relu", "reads": [0]}]})


@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({"shape": [4, 3], "start": 5, "steps": [-2, 1]}, (-1, 7)),
        ({"shape": [4, 3], "start": -1, "steps": [1, -1], "levels": [3, 9]}, (3, 9)),
        ({"shape": [2, 2], "classes": [0, 1], "levels": [4, -2]}, (-2, 4)),
    ],
)
def test_bounds_of_integers_follow_from_their_form(fields: dict[str, Any], bounds: tuple[int, int]):
    made = ConstantLayer.model_validate({"kind": "constant", "path": "c", "content": "integer", **fields})
    assert (made.holds.low, made.holds.high) == bounds


READ: dict[str, tuple[list[dict[str, Any]], str]] = {
    "differences of integers": ([{"op": "sub", "reads": [0, 0]}], "it works with numbers, and reads integers"),
    "layers of integers": ([{"op": "softmax", "reads": [0], "options": {"axis": 1}}], "reads integers"),
    "joined kinds": (
        [{"op": "as_number", "reads": [0]}, {"op": "cat", "reads": [0, 1], "options": {"axis": 1}}],
        "it reads integers and numbers together",
    ),
    "numbers of numbers": ([{"op": "as_number", "reads": [0]}, {"op": "as_number", "reads": [1]}], "these are numbers"),
    "an output of integers": ([{"op": "roll", "reads": [0], "options": {"shifts": [1], "axes": [1]}}], "integers"),
    "a relation": ([{"op": "compare", "reads": [0], "options": {"relation": "like", "number": 0}}], "'relation'"),
    "an attention mask": (
        [
            {"op": "as_number", "reads": [0]},
            {"op": "reshape", "reads": [1], "options": {"shape": [-1, 4, 1]}},
            {
                "op": "attention",
                "reads": [2, 2, 2, 0],
                "options": {"scale": 1.0, "causal": False, "dropout": 0.0},
            },
        ],
        "a mask of batch×4 does not fit scores of batch×4×4",
    ),
}


@pytest.mark.parametrize("case", READ)
def test_operations_read_what_they_are_of(case: str):
    nodes, expected = READ[case]
    inputs = [{"name": "ids", "shape": [4], "content": "integer", "below": 9}]
    graph = Graph.model_validate({"layers": (), "nodes": nodes, "inputs": inputs})
    with pytest.raises(GraphError, match=expected):
        infer(graph, (4,))
