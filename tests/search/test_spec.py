"""Bad specifications are refused with the path of the field, before anything is allocated."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from collegium.search.errors import InvalidSpec
from collegium.search.networks.build import validate_search
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec

MLP = {"family": "mlp", "inputs": 784, "hidden": [500, 500], "outputs": 10}
RESNET = {"family": "resnext", "layout": "cifar", "depth": 29}


def block(layers, widths=None, **shape):
    return {
        "family": "block",
        "input": {"channels": 16, "height": 8, "width": 8} | shape,
        "layers": layers,
        "widths": {"n": 8} if widths is None else widths,
    }


def conv(out, **more):
    return {"type": "conv", "out": out} | more


@pytest.mark.parametrize("bad", [0, -3, 10**9, True, "5", 2.5, None])
@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_a_width_that_is_no_width_is_refused_by_name(field, bad):
    with pytest.raises(ValidationError) as caught:
        SearchSpec.model_validate_json(json.dumps({"baseline": MLP | {field: bad}}))
    assert field in caught.value.errors()[0]["loc"]


@pytest.mark.parametrize("bad", [[], [0], [True], ["4"], [4] * 65, 7])
def test_a_width_vector_must_hold_widths(bad):
    with pytest.raises(ValidationError) as caught:
        SearchSpec.model_validate_json(json.dumps({"baseline": MLP | {"hidden": bad}}))
    assert "hidden" in caught.value.errors()[0]["loc"]


@pytest.mark.parametrize(
    "text",
    [
        '{"baseline": {"family": "perceptron"}}',
        '{"baseline": {}}',
        '{"baseline": 3}',
        '{"baseline": {"preset": "resnet50", "family": "mlp"}}',
        '{"baseline": {"preset": "resnet50"}, "tolerance": NaN}',
        '{"baseline": {"preset": "resnet50"}, "tolerance": Infinity}',
        '{"baseline": {"preset": "resnet50"}, "estimator": {"method": "given"}}',
        '{"baseline": {"preset": "resnet50"}, "estimator": {"alpha": 1.6}}',
        '{"baseline": {"preset": "resnet50"}, "unknown": 1}',
        '{"baseline": {"preset": "resnet50"}, "inputs": {"correlation": 0.5, "data": "digits"}}',
        '{"baseline": {"preset": "resnet50"}, "space": {"min_width": 9, "max_width": 8}}',
        '{"baseline": ' + "[" * 20000,
        "",
        "[]",
    ],
)
def test_malformed_searches_are_refused(text):
    with pytest.raises(ValidationError):
        SearchSpec.model_validate_json(text)


@pytest.mark.parametrize(
    ("baseline", "path"),
    [
        ({"preset": "resnet51"}, ("baseline", "preset")),
        (RESNET | {"depth": 30}, ("baseline", "depth")),
        (RESNET | {"blocks": [3, 3, 3]}, ("baseline", "depth")),
        ({"family": "resnext", "layout": "cifar"}, ("baseline", "depth")),
        ({"family": "resnext", "layout": "imagenet", "depth": 51}, ("baseline", "depth")),
        (MLP | {"hidden": [10**6] * 3}, ("baseline",)),
        (block([conv("n"), {"type": "relu"}, conv("k")]), ("baseline", "layers", 2, "out")),
        (block([conv("n"), {"type": "relu"}, conv("n")]), ("baseline", "layers", 2, "out")),
        (block([conv(8), {"type": "relu"}, conv(8)]), ("baseline", "widths", "n")),
        (block([conv("n"), conv(8), {"type": "relu"}]), ("baseline", "layers", 2)),
        (block([{"type": "relu"}, conv("n"), conv(8)]), ("baseline", "layers", 0)),
        (block([conv("n"), {"type": "relu"}, {"type": "relu"}, conv(8)]), ("baseline", "layers", 2)),
        (block([{"type": "relu"}]), ("baseline", "layers", 0)),
        (block([conv("n"), conv(8, groups=3)]), ("baseline", "layers", 1, "groups")),
        (block([conv("n", groups=2), conv(8)]), ("baseline", "layers", 0, "groups")),
        (block([conv("n", kernel=11, padding=0), conv(8)]), ("baseline", "layers", 0, "kernel")),
        (block([conv("n", kernel=3, padding=3), conv(8)]), ("baseline", "layers", 0, "padding")),
    ],
)
def test_an_inconsistent_baseline_is_refused_by_path(baseline, path):
    spec = SearchSpec.model_validate_json(json.dumps({"baseline": baseline}))
    with pytest.raises(InvalidSpec) as caught:
        validate_search(spec)
    assert caught.value.path == path
    assert caught.value.message


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"space": {"widths": [[4, 4, 4]]}}, ("space", "widths", 0)),
        ({"space": {"min_width": 600}}, ("space", "min_width")),
    ],
)
def test_a_space_that_does_not_fit_the_baseline_is_refused(more, path):
    with pytest.raises(InvalidSpec) as caught:
        validate_search(SearchSpec.model_validate_json(json.dumps({"baseline": MLP} | more)))
    assert caught.value.path == path


def test_ten_lines_that_describe_a_trillion_parameters_are_refused():
    huge = {"family": "mlp", "inputs": 1, "hidden": [500_000] * 5, "outputs": 1}
    with pytest.raises(InvalidSpec, match="parameters"):
        validate_search(SearchSpec.model_validate_json(json.dumps({"baseline": huge})))


def test_a_pooled_entry_over_a_huge_map_is_refused():
    layers = [conv("n", kernel=3), {"type": "relu"}, conv("n", kernel=3), {"type": "relu"}, conv(8)]
    spec = {"baseline": block(layers, height=2048, width=2048), "estimator": {"entry": "pooled"}}
    with pytest.raises(InvalidSpec, match="positions"):
        validate_search(SearchSpec.model_validate_json(json.dumps(spec)))


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"inputs": {"gram": [[2.0, 0.0], [0.0, 2.0]]}}, ("inputs", "gram")),
        ({"inputs": {"gram": [[0.0] * 9] * 9}}, ("inputs", "gram")),
        ({"inputs": {"gram": [[2.0] * 9] * 8 + [[2.0] * 8]}}, ("inputs", "gram")),
        ({"estimator": {"method": "exact", "entry": "pooled"}}, ("estimator", "method")),
        ({"estimator": {"method": "exact"}, "inputs": {"pair": {"cosine": 0.5}}}, ("estimator", "method")),
    ],
)
def test_an_estimate_that_cannot_be_made_is_refused_before_it_is_stored(more, path):
    with pytest.raises(InvalidSpec) as caught:
        validate_search(SearchSpec.model_validate_json(json.dumps({"baseline": {"preset": "resnet50"}} | more)))
    assert caught.value.path == path


GROUPED = {
    "family": "block",
    "input": {"channels": 4, "height": 2, "width": 1},
    "layers": [
        {"type": "conv", "out": 4, "groups": 2},
        {"type": "relu"},
        {"type": "dense", "out": "n"},
        {"type": "relu"},
        {"type": "dense", "out": 1},
    ],
    "widths": {"n": 8},
}


def test_a_gram_matrix_for_each_group_of_the_first_layer_is_read_and_dumped_as_it_is():
    grams = [[[2.0, 1.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]]
    asked = {"baseline": GROUPED, "inputs": {"gram": grams}}
    spec = SearchSpec.model_validate_json(json.dumps(asked))
    validate_search(spec)
    assert spec.model_dump(mode="json")["inputs"]["gram"] == grams
    assert SearchSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("gram", "path", "message"),
    [
        ([[[2.0, 0.0], [0.0, 2.0]]], ("inputs", "gram"), "1 Gram matrix .* 2 groups"),
        ([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 3.0], [3.0, 2.0]]], ("inputs", "gram"), "group 1: .* positive"),
        ([[["x"]], [[1.0]]], ("inputs", "gram", 0, 0, 0), "number"),
        ([[1.0, [2.0]], [1.0, 2.0]], ("inputs", "gram", 0, 1), "number"),
        ([[[1.0, 2.0], 3.0]], ("inputs", "gram", 0, 1), "tuple|array"),
        ([[[]]], ("inputs", "gram", 0, 0), "at least 1"),
        ([[]], ("inputs", "gram", 0), "at least 1"),
        ([], ("inputs", "gram"), "at least 1"),
        (3.0, ("inputs", "gram"), "tuple|array"),
    ],
)
def test_a_wrong_gram_is_refused_with_the_place_that_is_wrong(gram, path, message):
    with pytest.raises(InvalidSpec, match=message) as caught:
        validate_search(parse_spec(SearchSpec, {"baseline": GROUPED, "inputs": {"gram": gram}}))
    assert caught.value.path == path
