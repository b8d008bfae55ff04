"""From documents to specifications."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec

MLP = {"family": "mlp", "inputs": 16, "hidden": [8, 8]}


def test_lists_tuples_and_models_stand_for_the_same_specification() -> None:
    from_lists = parse_spec(SearchSpec, {"baseline": MLP})
    assert from_lists == parse_spec(SearchSpec, {"baseline": MLP | {"hidden": (8, 8)}})
    assert from_lists == parse_spec(SearchSpec, {"baseline": MlpBaseline(family="mlp", inputs=16, hidden=(8, 8))})


def test_every_wrong_field_is_listed_and_the_first_is_the_errors_own() -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(SearchSpec, {"baseline": MLP | {"inputs": "x"}, "tolerance": 2, "colour": 1})
    paths = [path for path, _ in caught.value.errors]
    assert paths == [("baseline", "inputs"), ("tolerance",), ("colour",)]
    assert (caught.value.path, caught.value.message) == caught.value.errors[0]


def test_a_wrong_field_is_found_inside_models_and_tuples() -> None:
    mixed = {"baseline": MlpBaseline(family="mlp", inputs=16, hidden=(8, 8)), "space": {"widths": (4, "x")}}
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(SearchSpec, mixed)
    assert caught.value.path == ("space", "widths", 1)
    wrong = MlpBaseline.model_construct(family="mlp", inputs=16, hidden=(8, 0))
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(SearchSpec, {"baseline": wrong})
    assert caught.value.path == ("baseline", "hidden", 1)


@pytest.mark.parametrize(
    ("hidden", "path", "message"),
    [
        ([], ("baseline", "hidden"), "at least 1 item is expected here"),
        ([8] * 65, ("baseline", "hidden"), "at most 64 items are expected here"),
        ([8, "a", "b"], ("baseline", "hidden", 1), "Input should be a valid integer"),
        (["a"], ("baseline", "hidden", 0), "Input should be a valid integer"),
    ],
)
def test_an_array_is_refused_for_its_length_or_its_first_wrong_item(
    hidden: list[object], path: tuple[object, ...], message: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(SearchSpec, {"baseline": MLP | {"hidden": hidden}})
    assert caught.value.errors == ((path, message),)


@pytest.mark.parametrize(
    ("hidden", "path", "message"),
    [
        ({30, 31}, ("baseline", "hidden"), "set has no form in JSON"),
        ([30, b"x"], ("baseline", "hidden", 1), "bytes has no form in JSON"),
        (object(), ("baseline", "hidden"), "object has no form in JSON"),
    ],
)
def test_a_value_without_a_form_in_json_is_refused_where_it_stands(hidden, path, message) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(SearchSpec, {"baseline": MLP | {"hidden": hidden}})
    assert caught.value.errors == ((path, message),)
    circle: dict[str, object] = {}
    circle["baseline"] = circle
    with pytest.raises(InvalidSpec, match="Circular"):
        parse_spec(SearchSpec, circle)


def test_numbers_and_arrays_of_numpy_are_numbers_and_arrays() -> None:
    given = {"baseline": MLP | {"inputs": np.int64(20), "hidden": np.array([8, 9])}, "tolerance": np.float64(0.25)}
    plain = {"baseline": MLP | {"inputs": 20, "hidden": [8, 9]}, "tolerance": 0.25}
    assert parse_spec(SearchSpec, given) == parse_spec(SearchSpec, plain)


def test_what_is_easily_taken_for_a_baseline_is_refused_with_a_remedy() -> None:
    module = nn.Linear(3, 4)
    answer = find_ensemble(MLP)
    for given, words in [
        (module, "described first: find_ensemble"),
        (answer, "the result of a search"),
        (None, "not NoneType"),
        ([MLP], "not list"),
    ]:
        with pytest.raises(InvalidSpec, match=words) as caught:
            find_ensemble(given)
        assert caught.value.errors[0][0] == ("baseline",)
    with pytest.raises(InvalidSpec, match=r"model: give the torch\.nn\.Module that was described, not str"):
        find_ensemble(MLP, model="module")
