import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.jobs.database.json_text import decode, digest, encode
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


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), object(), {1}, {(1, 2): 3}, nested(100_000)])
def test_what_is_no_json_is_refused(value):
    for refuse in (encode, digest):
        with pytest.raises(NotStorable):
            refuse(value)


def test_lone_surrogates_have_a_digest():
    assert digest("\ud800") != digest("\ud801")
