"""Untrusted graphs: what does not hold together, or is not the network that it is said to be, is refused by field."""

from __future__ import annotations

import copy
import time
from itertools import product
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.graph import pointwise
from collegium.search.networks.graph.infer import GraphError, infer
from collegium.search.networks.graph.operations import FUNCTIONS, OPERATIONS, window_extents
from collegium.search.networks.graph.spec import Graph
from collegium.search.parse import parse_spec


@pytest.fixture(scope="module")
def posted() -> dict[str, Any]:
    """A convolutional network as JSON; its nodes are conv, norm, relu, conv, relu, conv, pool, reshape, linear."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU()]
    layers += [nn.Conv2d(8, 6, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)]
    return describe(nn.Sequential(*layers), torch.zeros(1, 3, 8, 8), name="net").model_dump(mode="json")


def refusal(posted: dict[str, Any]) -> str:
    with pytest.raises(InvalidSpec) as refused:
        build_network(parse_spec(NetworkBaseline, posted))
    return str(refused.value)


def node(op: str, reads: list[int], layer: str | None = None, **options: Any) -> dict[str, Any]:
    return {"op": op, "reads": reads, "layer": layer, "options": options}


def test_the_description_itself_is_taken(posted: dict[str, Any]):
    network = build_network(parse_spec(NetworkBaseline, posted))
    assert network.not_built is None
    assert [each["op"] for each in posted["graph"]["nodes"]] == [
        "layer", "layer", "relu", "layer", "relu", "layer", "adaptive_avg_pool", "reshape", "layer",
    ]  # fmt: skip


LIES: dict[str, tuple[Any, str]] = {
    "parameters": (lambda p: p.update(parameters=p["parameters"] + 1), "parameters: the graph has"),
    "flops": (lambda p: p.update(flops=p["flops"] + 64), "flops: the graph has"),
    "outputs": (lambda p: p.update(outputs=11), "outputs: the graph has 10"),
    "input": (lambda p: p.update(input=[3, 9, 9]), "baseline.flops"),
    "channels": (lambda p: p.update(input=[4, 8, 8]), "baseline.graph.nodes[0]"),
    "a wider layer": (lambda p: p["graph"]["layers"][2].update(outputs=9), "baseline.graph.nodes[5]"),
    "another kernel": (lambda p: p["graph"]["layers"][2].update(kernel=[1, 1], padding=[0, 0]), "parameters"),
    "another activation": (lambda p: p["graph"]["nodes"][2].update(op="tanh"), "branches[0].layers: behind '1'"),
    "no activation": (
        lambda p: p["graph"]["nodes"][4].update(op="reshape", options={"shape": [-1, 8, 8, 8]}),
        "branches[0].layers: behind '3'",
    ),
    "another pool": (lambda p: p["graph"]["nodes"][6].update(op="adaptive_max_pool"), "branches[0].layers: behind '5'"),
    "a layer of another name": (lambda p: p["branches"][0]["paths"][0].__setitem__(0, "9"), "paths[0][0]"),
    "layers in another order": (lambda p: _swap(p["branches"][0]["paths"][0]), "paths[0]"),
    "a width that is read": (lambda p: _skip(p), "branches[0].layers: behind '1' the graph has an operation"),
    "twice a number": (
        lambda p: p["graph"]["nodes"][2].update(op="add", reads=[2, 2], options={}),
        "branches[0].layers: behind '1' the graph has another activation",
    ),
    "a number as an activation": (
        lambda p: p["graph"]["nodes"][2].update(op="multiply_number", options={"number": 2.0}),
        "branches[0].layers: behind '1' the graph has another activation",
    ),
    "a softmax as an activation": (
        lambda p: p["graph"]["nodes"][2].update(op="softmax", options={"axis": 1}),
        "branches[0].layers: behind '1' the graph has an operation that no branch has",
    ),
    "another slope": (
        lambda p: (
            p["graph"]["nodes"][2].update(op="leaky_relu", options={"negative_slope": 0.3}),
            p["branches"][0]["layers"][2].update(function="leaky_relu", parameters=[0.2]),
        ),
        "branches[0].layers: behind '1' the graph has another activation",
    ),
    "an operation": (lambda p: p["graph"]["nodes"][2].update(op="__import__"), "there is no operation '__import__'"),
    "a layer as operation": (lambda p: p["graph"]["nodes"][2].update(op="layer"), "nodes[2]"),
    "an option": (lambda p: p["graph"]["nodes"][2].update(options={"inplace": True}), "no option 'inplace'"),
    "a missing option": (lambda p: p["graph"]["nodes"][6].update(options={}), "the option 'output' is missing"),
    "an option's kind": (lambda p: p["graph"]["nodes"][6]["options"].update(output=["a"]), "options.output"),
    "a later node": (lambda p: p["graph"]["nodes"][2].update(reads=[7]), "it reads 7, and 2 is the last one before it"),
    "too many reads": (lambda p: p["graph"]["nodes"][2].update(reads=[1, 2]), "it reads 2 tensors where 1"),
    "an unknown layer": (lambda p: p["graph"]["nodes"][0].update(layer="x"), "there is no layer 'x'"),
    "a path of the class": (lambda p: p["graph"]["layers"][0].update(path="__class__ "), "graph.layers[0].path"),
    "two layers of a name": (lambda p: p["graph"]["layers"][2].update(path="0"), "two layers are called '0'"),
    "a layer in a layer": (lambda p: p["graph"]["layers"][2].update(path="0.a"), "cannot be inside of the layer"),
    "a batch that is mixed": (lambda p: p["graph"]["nodes"][7]["options"].update(shape=[6, -1]), "nodes[8]"),
    "a reshape": (lambda p: p["graph"]["nodes"][7]["options"].update(shape=[-1, 7]), "cannot be reshaped"),
    "a law": (lambda p: p["graph"]["layers"][0]["weight"].update(value=-1.0), "standard deviation"),
    "an infinite law": (lambda p: p["graph"]["layers"][0]["weight"].update(value=1e300), "weight.value"),
    "no epsilon": (lambda p: p["graph"]["layers"][1].update(epsilon=0.0), "epsilon must be above 0"),
    "an occurrence twice": (lambda p: _again(p["branches"][0]), "the module '0', which is one of a branch already"),
    "both": (lambda p: p.update(no_graph="none"), "no_graph: a reason is expected where there is no 'graph'"),
    "tied to itself": (lambda p: p["graph"].update(tied=[["0.weight", "0.weight"]]), "graph.tied[0]"),
    "tied shapes": (lambda p: p["graph"].update(tied=[["0.weight", "3.weight"]]), "are not of one shape"),
    "code": (lambda p: p["graph"].update(module="os:system"), "graph.module"),
}  # fmt: skip


def _swap(paths: list[str]) -> None:
    paths[2], paths[3] = paths[3], paths[2]


def _again(branch: dict[str, Any]) -> None:
    branch.update(count=2, paths=2 * branch["paths"])


def _skip(posted: dict[str, Any]) -> None:
    """A part of an inner map, whose size is that of a fixed width, stands for it."""
    nodes = posted["graph"]["nodes"]
    nodes.insert(3, node("slice", [3], axis=1, start=0, end=8, step=1))
    for each in nodes[4:]:
        each["reads"] = [read + 1 if read > 3 else read for read in each["reads"]]
    nodes[4]["reads"] = [4]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_where_it_is(posted: dict[str, Any], lie: str):
    change, expected = LIES[lie]
    changed = copy.deepcopy(posted)
    change(changed)
    assert expected in refusal(changed)


@pytest.mark.parametrize(
    ("pool", "options"),
    [
        (nn.MaxPool2d(3, 2, 1), {"kernel": [2, 2], "padding": [0, 0]}),
        (nn.AvgPool2d(3, 1, 1), {"count_padding": False}),
    ],
)
def test_a_pool_with_other_windows_is_refused(pool: nn.Module, options: dict[str, Any]):
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        pool,
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 4, 1),
    ]
    posted = describe(nn.Sequential(*layers), torch.zeros(1, 3, 8, 8), name="net").model_dump(mode="json")
    assert build_network(parse_spec(NetworkBaseline, posted)).not_built is None
    (place,) = (index for index, each in enumerate(posted["graph"]["nodes"]) if each["op"].endswith("_pool"))
    posted["graph"]["nodes"][place]["options"].update(options)
    assert "branches[0].layers: behind '0'" in refusal(posted)


BOMBS: dict[str, tuple[list[int], list[dict[str, Any]], str]] = {
    "an expansion": ([1], [node("expand", [0], shape=[-1, 10**9, 10**9])] * 1, "cannot be expanded"),
    "a map": ([1, 1, 1], [node("resize", [0], size=[10**9, 10**9], mode="nearest", align_corners=False)], "more than"),
    "padding": ([1, 8], [node("pad", [0], sizes=[10**9, 10**9, 10**9, 10**9], mode="constant", value=0.0)], "batch"),
    "doubling": ([1024], [node("cat", [i, i], axis=1) for i in range(40)], "more than"),
    "axes": ([2], [node("reshape", [0], shape=[-1, 2, *[1] * 9])], "axes"),
    "no numbers": ([2], [node("reshape", [0], shape=[-1, 0])], "cannot be reshaped"),
    "no axis": ([2], [node("mean", [0], axes=[7], keep=False)], "there is no axis 7"),
    "the batch": ([2], [node("mean", [0], axes=[0], keep=False)], "that of the batch"),
    "a kernel": (
        [1, 8, 8],
        [node("max_pool", [0], kernel=[9, 9], stride=[1, 1], padding=[0, 0], dilation=[1, 1], ceil_mode=False)],
        "too small",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_sizes_are_refused_before_anything_is_allocated(bomb: str):
    sample, nodes, expected = BOMBS[bomb]
    graph = Graph.model_validate({"layers": (), "nodes": tuple(nodes)})
    with pytest.raises(GraphError, match=expected):
        infer(graph, sample)


def test_a_graph_of_the_most_nodes_is_checked_in_a_moment():
    graph = Graph.model_validate({"layers": (), "nodes": tuple(node("relu", [i]) for i in range(4096))})
    started = time.perf_counter()
    assert infer(graph, (4,)).output == (-1, 4)
    assert time.perf_counter() - started < 5


def test_what_nodes_read_is_bounded_altogether():
    nodes = tuple(node("cat", [0] * 256, axis=1) for _ in range(257))
    assert Graph.model_validate({"layers": (), "nodes": nodes[:256]})
    with pytest.raises(ValidationError, match="read 65792 results altogether, and 65536 are the most"):
        Graph.model_validate({"layers": (), "nodes": nodes})


def test_a_layer_of_the_graph_is_compared_up_to_what_is_no_function_of_a_branch():
    """Of layers that meet in one sum only the way there is compared, however long what follows is."""
    law, count = {"kind": "normal", "value": 0.1}, 400
    names = [[f"{row}.{column}" for column in "abc"] for row in range(count)]
    layers = [
        {"kind": "linear", "path": path, "inputs": 1, "outputs": 1, "weight": law} for row in names for path in row
    ]
    nodes: list[dict[str, Any]] = []
    for row in names:
        nodes.append(node("layer", [0], row[0]))
        nodes += [node("layer", [len(nodes) + place], path) for place, path in enumerate(row[1:])]
    last = [3 * row + 3 for row in range(count)]
    nodes += [node("cat", last[: count // 2], axis=1), node("cat", last[count // 2 :], axis=1)]
    nodes.append(node("add", [3 * count + 1, 3 * count + 2]))
    nodes += [node("relu", [place]) for place in range(len(nodes), 4000)]
    branch = {
        "name": "b", "count": count, "layers": [{"kind": "linear", "bias": False}] * 3, "widths": [1] * 4,
        "paths": names, "parameters": 3, "flops": 3, "splittable": True,
    }  # fmt: skip
    whole = {"family": "network", "name": "n", "input": [1], "outputs": count // 2, "branches": [branch]}
    whole |= {"parameters": 3 * count, "flops": 3 * count, "graph": {"layers": layers, "nodes": nodes}}
    started = time.process_time()
    assert build_network(parse_spec(NetworkBaseline, whole)).not_built is None
    assert time.process_time() - started < 5


def test_costs_of_a_graph_are_those_that_a_run_has(posted: dict[str, Any]):
    network = build_network(parse_spec(NetworkBaseline, posted))
    stages = network.stage_groupings(network.baseline, network.multiplicity)
    parts = network.footprints(stages)
    assert sum(part.parameters for part in parts) == posted["parameters"]
    assert sum(part.buffers for part in parts) == 16
    maps = [3 * 64, 8 * 64, 8 * 64, 8 * 64, 8 * 64, 8 * 64, 6 * 64, 6, 10]
    assert network.features_of(stages) == sum(maps)  # a reshape has no memory of its own
    assert max(part.live for part in parts) == 2 * 8 * 64


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_extents_behind_a_window_are_those_of_pytorch(ceil_mode: bool):
    for size, kernel, stride in product(range(1, 7), range(1, 4), range(1, 4)):
        try:
            expected = functional.max_pool1d(torch.zeros(1, 1, size), kernel, stride, 0, 1, ceil_mode).shape[2:]
        except RuntimeError:
            expected = ()
        try:
            found = window_extents((size,), (kernel,), (stride,), (0,), (1,), ceil_mode)
        except ValueError:
            found = ()
        assert found == tuple(expected), (size, kernel, stride)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


@pytest.mark.slow
def test_of_many_branches_the_one_whose_width_is_read_is_named():
    model = nn.Sequential(*(Block(width) for width in range(3, 43)))
    posted = describe(model, torch.zeros(1, 4), name="net").model_dump(mode="json")
    graph, width = posted["graph"], 42
    first = next(at for at, each in enumerate(graph["nodes"], start=1) if each["layer"] == "39.layers.0")
    for each in graph["nodes"][first:]:
        each["reads"] = [read + 2 * (read >= first) for read in each["reads"]]
    graph["nodes"][first:first] = [
        node("reshape", [first], shape=[-1, 6, width // 6]),
        node("reshape", [first + 1], shape=[-1, width]),
    ]
    assert "branches[39]: inner widths are not free" in refusal(posted)


HONEST = {
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "relu": lambda x: x.clamp(min=0),
    "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "mish": lambda x: x * torch.tanh(torch.log1p(x.exp())),
    "elu": lambda x: torch.where(x > 0, x, x.clamp(max=0).exp() - 1),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "softplus": nn.Softplus(2.0, 5.0),
    "celu": nn.CELU(0.3),
    "hardtanh": nn.Hardtanh(-0.5, 2.0),
    "shrinks": lambda x: functional.hardshrink(functional.softshrink(x, 0.2), 0.7),
    "several in a row": lambda x: torch.tanh(functional.relu(functional.elu(x))),
    "one without a name": lambda x: x * torch.sin(x),
    "dropout between": lambda x: functional.dropout(functional.relu(x), 0.1, training=True),
}


@pytest.mark.parametrize("form", HONEST.values(), ids=HONEST)
def test_what_a_module_computes_is_taken_however_it_is_written(form: Any):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(form(self.b(form(self.a(x)))))

    torch.manual_seed(0)
    posted = describe(Net(), torch.zeros(1, 6)).model_dump(mode="json")
    assert posted["graph"] is not None, posted["no_graph"]
    network = build_network(parse_spec(NetworkBaseline, posted))
    assert network.not_built is None
    assert [branch["splittable"] for branch in posted["branches"]] == [True]


def test_every_operation_that_is_elementwise_has_its_values_or_is_refused():
    """One that was added to graphs alone would be refused inside of a branch, not passed over."""
    for name, operation in OPERATIONS.items():
        if operation in FUNCTIONS.values():
            assert name in pointwise.OPERATIONS, name
