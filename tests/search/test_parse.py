"""From documents to specifications."""

from __future__ import annotations

import pytest

from collegium.search.errors import InvalidSpec
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


def test_a_value_without_a_form_in_json_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        parse_spec(SearchSpec, {"baseline": object()})
