"""Baselines of any network: counts follow from layers, and a document that disagrees is refused by field."""

from __future__ import annotations

import copy
import doctest
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from collegium.search.errors import InvalidSpec
from collegium.search.networks.families import network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_layers import Pool
from collegium.search.parse import parse_spec

RELU = {"kind": "activation", "function": "relu"}
NORM = {"kind": "norm", "norm": "batch"}


def conv(kernel: int, stride: int = 1, groups: int = 1, **more: Any) -> dict[str, Any]:
    sizes = {"kernel": [kernel] * 2, "stride": [stride] * 2, "padding": [kernel // 2] * 2, "dilation": [1, 1]}
    return {"kind": "conv", **sizes, "groups": groups, **more}


def bottleneck() -> dict[str, Any]:
    """A block of ResNet-50's first stage, by hand: 256·64 + 9·64·64 + 64·256 weights, two norms of 64."""
    return {
        "name": "layer1.1",
        "count": 2,
        "input": [56, 56],
        "layers": [conv(1), NORM, RELU, conv(3), NORM, RELU, conv(1)],
        "widths": [256, 64, 64, 256],
        "paths": [[f"layer1.{i}.{name}" for name in ("conv1", "bn1", "conv2", "bn2", "conv3")] for i in (1, 2)],
        "parameters": 69632 + 256,
        "flops": 69632 * 56**2,
        "splittable": True,
        "group": "bottleneck",
    }


def document() -> dict[str, Any]:
    return copy.deepcopy(_document())


def _document() -> dict[str, Any]:
    return {
        "family": "network",
        "name": "two blocks",
        "input": [256, 56, 56],
        "outputs": 10,
        "branches": [
            bottleneck(),
            {"name": "head", "parameters": 2570, "flops": 2560, "splittable": False, "why": "one layer"},
        ],
        "parameters": 2 * 69888 + 2570 + 1024,
        "flops": 2 * 69632 * 56**2 + 2560,
    }


def test_what_no_branch_accounts_for_is_fixed():
    baseline = parse_spec(NetworkBaseline, document())
    assert baseline.fixed_cost("parameters") == 2570 + 1024
    assert baseline.fixed_cost("flops") == 2560
    assert baseline.branches[0].free == [(1,), (2,)]
    assert parse_spec(NetworkBaseline, baseline.model_dump(mode="json")) == baseline


def test_the_example_runs():
    assert doctest.testmod(network, optionflags=doctest.ELLIPSIS).failed == 0


def test_the_table_has_each_part_with_its_share_and_escapes_names():
    wrong = document()
    wrong["branches"][1]["name"] = "<script>"
    baseline = parse_spec(NetworkBaseline, wrong)
    text = str(baseline)
    for word in ("layer1.1", "1×1 3×3 1×1", "256→64→64→256", "97.5 %", "one layer", "2 places can be split"):
        assert word in text
    html = baseline._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("branches", 0, "parameters"), 69889, "the layers have 69888"),
        (("branches", 0, "flops"), 0, "the layers have"),
        (("branches", 0, "flops"), -1, "greater than or equal to 0"),
        (("branches", 0, "widths"), [256, 64, 256], "4 widths are expected"),
        (("branches", 0, "widths"), [256, 64, 10**9, 256], "less than or equal to"),
        (("branches", 0, "input"), [4, 4, 4], "layers[0]: kernel must have 3 dimensions"),
        (("branches", 0, "input"), [0, 4], "greater than or equal to 1"),
        (("branches", 0, "paths"), [["a", "b", "c"]], "as 'count' says, 2"),
        (("branches", 0, "paths"), [["a"], ["b"]], "its 5 weight layers and norms"),
        (("branches", 0, "count"), 0, "greater than or equal to 1"),
        (("branches", 0, "splittable"), "yes", "valid boolean"),
        (("branches", 0, "why"), "because", "false, and there alone"),
        (("branches", 1, "why"), None, "false, and there alone"),
        (("branches", 1, "group"), "a", "only what can be split"),
        (("branches", 0, "layers", 3, "groups"), 3, "3 groups of weight layer 1 must divide"),
        (("branches", 0, "layers", 3, "stride"), [1], "one size for each dimension"),
        (("branches", 0, "layers", 3, "kernel"), [10**9] * 2, "too small for this kernel"),
        (("branches", 0, "layers", 1, "kind"), "attention", "does not match any of the expected tags"),
        (("branches", 0, "layers", 1, "groups"), 5, "5 groups of a norm must divide the width 64"),
        (("branches", 0, "layers"), [RELU], "begins and ends"),
        (("branches", 0, "name"), "a\nb", "match pattern"),
        (("parameters",), 100, "must be at least 142346"),
        (("flops",), 100, "the sum of the branches"),
        (("parameters",), 10**18, "less than or equal to"),
    ],
)
def test_what_lies_is_refused_by_field(path, value, words):
    wrong = document()
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InvalidSpec) as found:
        parse_spec(NetworkBaseline, wrong)
    messages = {error[0]: error[1] for error in found.value.errors}
    assert any(words in message for message in messages.values()), messages
    # A rule of a neighbouring field may name that field: the branch is right in any case.
    assert all(location[: min(2, len(path))] == path[: min(2, len(path))] for location in messages), messages


@pytest.mark.parametrize("field", ["name", "input", "layers", "widths", "parameters", "flops", "splittable"])
def test_a_field_that_is_missing_is_refused(field):
    wrong = document()
    del wrong["branches"][0][field]
    with pytest.raises(InvalidSpec) as found:
        parse_spec(NetworkBaseline, wrong)
    assert found.value.path[:2] == ("branches", 0)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_is_put_in_a_place_is_refused_or_makes_a_whole_baseline(data):
    changed = document()
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from([path for path in places(changed) if path]))
        node = changed
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = data.draw(st.sampled_from([0, -1, 1, 64, 10**9, 10**30, 1.5, None, True, "x", [], {}, [64]]))
    try:
        baseline = parse_spec(NetworkBaseline, changed)
    except InvalidSpec:
        return
    assert 0 <= baseline.fixed_cost("parameters") <= baseline.parameters
    assert str(baseline)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def test_a_chain_with_one_free_width_is_not_to_be_split():
    wrong = document()
    branch = wrong["branches"][0]
    branch |= {"layers": [conv(1), NORM, RELU, conv(1)], "widths": [256, 64, 256], "parameters": 32896}
    branch |= {"flops": 32768 * 56**2, "paths": []}
    with pytest.raises(InvalidSpec, match="splittable: must be false: fewer than 2 widths are free"):
        parse_spec(NetworkBaseline, wrong)
    branch["layers"].insert(3, conv(3, groups=64, depthwise=True))
    branch |= {"widths": [256, 64, 64, 256], "parameters": 32896 + 9 * 64, "flops": (32768 + 9 * 64) * 56**2}
    with pytest.raises(InvalidSpec, match="splittable: must be false: fewer than 2 widths are free"):
        parse_spec(NetworkBaseline, wrong)


def test_a_grouped_end_is_not_to_be_split():
    wrong = document()
    wrong["branches"][0]["layers"][0]["groups"] = 2
    wrong["branches"][0] |= {"parameters": 69888 - 8192, "flops": (69632 - 8192) * 56**2}
    with pytest.raises(InvalidSpec, match="may not be grouped"):
        parse_spec(NetworkBaseline, wrong)


def test_branches_of_one_group_are_alike():
    twice = document()
    twice["branches"].append(copy.deepcopy(twice["branches"][0]) | {"name": "wider", "paths": [], "count": 1})
    twice |= {"parameters": 10**6, "flops": 10**9}
    twice["branches"][2] |= {"widths": [64, 32, 64, 64], "group": "bottleneck"}
    twice["branches"][2] |= {"parameters": 64 * 32 + 9 * 32 * 64 + 64 * 64 + 192, "flops": 24576 * 56**2}
    with pytest.raises(InvalidSpec, match="of one group 'bottleneck'"):
        parse_spec(NetworkBaseline, twice)
    twice["branches"][2] |= {"group": "other"}
    parse_spec(NetworkBaseline, twice)


def test_members_that_are_there_already_are_counted():
    grouped = document()
    branch = grouped["branches"][0]
    branch["layers"][3]["groups"] = 32
    branch |= {"parameters": 69888 - 36864 + 1152, "flops": (69632 - 36864 + 1152) * 56**2}
    assert parse_spec(NetworkBaseline, grouped).branches[0].multiplicity == 32


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["branches"][0].update(layers=[conv(1)] * 600),
        lambda document: document["branches"][0].update(count=10**9),
        lambda document: document.update(branches=[bottleneck()] * 1025),
        lambda document: document["branches"][0].update(widths=[64] * 66),
        lambda document: document["branches"][0].update(paths=[["a"]] * 4097),
        lambda document: document["branches"][0].update(input=[10**9, 10**9]),
        lambda document: document["branches"][0].update(count=10**6, paths=[]),
    ],
)
def test_sizes_that_are_too_large_are_refused(change):
    large = document()
    change(large)
    with pytest.raises(InvalidSpec):
        parse_spec(NetworkBaseline, large)


def test_every_array_has_a_length_that_bodies_are_refused_by_before_they_are_validated():
    def arrays(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            if schema.get("type") == "array":
                yield schema
            for part in schema.values():
                yield from arrays(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from arrays(part)

    found = list(arrays(NetworkBaseline.model_json_schema()))
    assert len(found) > 8
    assert sum(schema["maxItems"] > 4096 for schema in found) <= 2  # numbers of a constant, and their classes
    assert all(schema["maxItems"] <= 32768 for schema in found)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_extents_of_pools_are_those_of_pytorch(data):
    kernel = data.draw(st.integers(1, 5))
    stride, dilation = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    padding, ceil = data.draw(st.integers(0, kernel // 2)), data.draw(st.booleans())
    size = data.draw(st.integers(dilation * (kernel - 1) + 1, 30))
    module = nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=ceil)
    expected = tuple(module(torch.empty(1, 1, size, device="meta")).shape[2:])
    layer = Pool(
        kind="pool", function="max", kernel=(kernel,), stride=(stride,), padding=(padding,), dilation=(dilation,),
        ceil_mode=ceil,
    )  # fmt: skip
    assert layer.after((size,)) == expected


def test_a_pool_is_given_in_one_way():
    with pytest.raises(ValidationError, match="either 'output' or the windows"):
        Pool(kind="pool", function="max", output=(1,), kernel=(2,))
    with pytest.raises(ValidationError, match="give 'output', or"):
        Pool(kind="pool", function="max")
