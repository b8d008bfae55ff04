import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.jobs.database.json_text import decode, digest, encode, encode_object, encode_once
from collegium.jobs.errors import NotStorable

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=25)
@given(values)
def test_what_is_encoded_comes_back(value):
    assert decode(encode(value)) == value
    assert "\0" not in encode(value)


@settings(max_examples=25)
@given(st.dictionaries(st.text(), values, min_size=2))
def test_the_digest_ignores_the_order_of_keys(value):
    assert digest(dict(reversed(value.items()))) == digest(value)
    assert digest({**value, "one more key": 1, "and another": 2}) != digest(value)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@settings(max_examples=50)
@given(st.dictionaries(st.text(), values | st.lists(st.integers() | st.floats(-1e9, 1e9))))
def test_an_object_that_is_encoded_once_has_the_texts_of_both(value):
    once = encode_once(value)
    assert encode(once) == encode(value)
    assert digest(once) == digest(value)
    assert digest(["kind", once]) == digest(["kind", value])
    assert digest({"spec": once, "a": 1}) == digest({"spec": value, "a": 1})
    assert encode_object({name: encode(member) for name, member in value.items()}) == encode(value)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": [object()]}, {"a": {1: 2}}, {"a": nested(100_000)}])
def test_an_object_that_is_no_json_is_not_encoded_once(value):
    with pytest.raises(NotStorable):
        encode_once(value)


def test_objects_nested_too_deeply_are_not_encoded_once():
    value = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(NotStorable):
        encode_once(value)


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), object(), {1}, {(1, 2): 3}, nested(100_000)])
def test_what_is_no_json_is_refused(value):
    for refuse in (encode, digest):
        with pytest.raises(NotStorable):
            refuse(value)


def test_lone_surrogates_have_a_digest():
    assert digest("\ud800") != digest("\ud801")
