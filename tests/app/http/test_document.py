"""A text that is validated as it was written becomes the model that its parsed document becomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from collegium.app.http.bounds import Bounds, bounds_of
from collegium.app.http.document import Scan, parse_json, parse_model
from collegium.app.http.problems import Problem
from collegium.search.errors import InvalidSpec, readable
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec, Strict

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Numbers(Strict):
    reals: Annotated[tuple[Finite, ...], Field(strict=False)] = ()
    rows: Annotated[tuple[Annotated[tuple[Finite, ...], Field(strict=False)], ...], Field(strict=False)] = ()
    either: Annotated[tuple[int | Finite, ...], Field(strict=False)] = ()
    count: int = 0
    rate: float = 0.0
    name: str = ""


def is_plain(text: str) -> bool:
    scan = Scan(text, bounds_of(Numbers))
    assert scan.first_fault() is None
    return scan.is_plain


def outcome(read: Callable[[], Numbers]) -> Any:
    """What was read, in which 1, 1.0 and -0.0 differ; or the refused fields."""
    try:
        return repr(read())
    except InvalidSpec as error:
        return [readable(location) for location, _ in error.errors]
    except Problem as problem:
        return [error["path"] for error in problem.document("id")["errors"]]


digits = st.text("0123456789", min_size=1, max_size=24).map(lambda text: text.lstrip("0") or "0")
exponents = st.tuples(st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 400)).map(
    lambda parts: "".join(map(str, parts))
)
fractions = st.text("0123456789", min_size=1, max_size=24).map(lambda text: "." + text)
literals = st.tuples(st.sampled_from(["", "-"]), digits, fractions | st.just(""), exponents | st.just("")).map("".join)


@settings(max_examples=100)
@given(st.lists(literals, max_size=4), st.lists(literals, max_size=4), literals, literals, st.text(max_size=4))
@example(["-0.0", "-0", "-1e-400", "2.0"], [], "0", "0.5", "")
@example(["-0." + "0" * 400 + "1"], [], "0", "0.5", "")
@example(["1"], ["1.0", "1"], "3.0", "0.99999999999999999999", "1.0")
@example(["123456789012345678901234567890"], ["9007199254740993.0"], "1e2", "9007199254740992.0", "")
def test_numbers_mean_what_they_mean_after_parsing(
    reals: list[str], either: list[str], count: str, rate: str, name: str
) -> None:
    row = ",".join(reals)
    text = (
        f'{{"reals":[{row}],"rows":[[{row}],[]],"either":[{",".join(either)}],'
        f'"count":{count},"rate":{rate},"name":{json.dumps(name)}}}'
    )
    assert outcome(lambda: parse_model(text.encode(), Numbers)) == outcome(
        lambda: parse_spec(Numbers, parse_json(text.encode()))
    )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('{"reals": [1.0, 2.5, 1e2, 4.0], "rows": [[0.00012345678901234567]], "count": 3, "rate": 0.5}', True),
        ('{"either": [1, 2, 3, 4, 5, 6, 7, 8], "name": "e.E"}', True),
        ('{"either": [1, 2, 3, 4, 5, 6, 7, 8, 9.0]}', False),
        ('{"either": [' + ", ".join(["0.5"] * 1000) + "]}", False),
        ('{"either": [0.5, 2], "rate": -0.5}', True),
        ('{"either": [2.0]}', False),
        ('{"count": 3.0}', False),
        ('{"rate": 1e2}', False),
        ('{"reals": [1], "rate": 1.0}', False),
        ('{"reals": [-0.0]}', False),
        ('{"reals": [-1e-400]}', False),
        ('{"reals": [123456789012345678901]}', False),
    ],
)
def test_what_has_no_integer_to_find_is_plain(text: str, plain: bool) -> None:
    assert is_plain(text) is plain


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999", "1" * 400 + ".5"])
@pytest.mark.parametrize("field", ["reals", "rows[0]", "either"])
def test_a_number_that_is_not_finite_is_refused_at_its_place(literal: str, field: str) -> None:
    array = f"[1.5,{literal}]"
    name, nested, _ = field.partition("[")
    text = f'{{"{name}": {f"[{array}]" if nested else array}}}'
    with pytest.raises(Problem) as caught:
        parse_model(text.encode(), Numbers)
    assert [error["path"] for error in caught.value.document("id")["errors"]] == [f"{field}[1]"]


@pytest.mark.parametrize(
    "text",
    [
        "[1.5",
        '{"rate": 01}',
        '{"rate": 1.}',
        '{"name": "\t"}',
        '{"rate": 0.5,}',
        "",
        "{} {}",
        '<a style={"b": 1, "b": 2}>',
    ],
)
def test_what_is_no_json_is_refused_as_such(text: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_model(text.encode(), Numbers)
    assert caught.value.document("id")["type"].endswith("malformed-json")


def test_a_gram_matrix_is_read_as_real_numbers_and_what_may_be_integers_is_not() -> None:
    inputs, space = bounds_of(SearchSpec).member("inputs"), bounds_of(SearchSpec).member("space")
    assert inputs is not None
    assert space is not None
    gram, widths = inputs.member("gram"), space.member("widths")
    assert gram is not None
    assert widths is not None
    assert gram.item.holds_reals
    assert not widths.item.holds_reals


@pytest.mark.parametrize("items", [{}, {"type": ["integer", "number"]}, {"enum": [1]}, {"type": "string"}])
def test_an_array_of_anything_else_is_not_one_of_real_numbers(items: dict[str, Any]) -> None:
    assert not Bounds([{"type": "array", "items": items}]).holds_reals
