import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.latency.limits import pareto, shown

pairs = st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float)), max_size=30)


@given(pairs)
def test_a_front_holds_exactly_what_no_other_pair_dominates(values):
    def dominated(own):
        return any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in values)

    assert pareto(values) == [not dominated(own) for own in values]


@pytest.mark.parametrize(
    ("cost", "value", "text"),
    [
        ("latency", 0.12345, "0.123 ms"),
        ("memory", 1536 * 2**20, "1\u202f536.0 MiB"),
        ("flops", 4e9, "4\u202f000\u202f000\u202f000 FLOPs"),
    ],
)
def test_costs_are_shown_with_their_units(cost, value, text):
    assert shown(cost, value) == text
