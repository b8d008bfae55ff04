"""Which members a space names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.optimize.members import between, listed_members, scaled_members, vector_values
from collegium.search.optimize.problem import build_problem
from collegium.search.spec import PresetBaseline, SearchSpec, SpaceSpec

GROUPED = """{"family": "block", "input": {"channels": 8, "height": 5, "width": 5}, "widths": {"a": 24},
    "layers": [{"type": "conv", "out": "a"}, {"type": "relu"}, {"type": "conv", "out": 12, "kernel": 3, "groups": 6},
    {"type": "relu"}, {"type": "conv", "out": 4}]}"""


def mlp(*hidden):
    return build_network(MlpBaseline(family="mlp", inputs=10, hidden=hidden))


@given(
    hidden=st.lists(st.integers(1, 400), min_size=1, max_size=5).map(tuple),
    low=st.integers(1, 20),
    high=st.integers(20, 500),
    multiple=st.integers(1, 16),
)
def test_scaled_members_obey_the_space(hidden, low, high, multiple):
    members = scaled_members(mlp(*hidden), SpaceSpec(min_width=low, max_width=high, multiple_of=multiple))
    assert len(set(members)) == len(members)
    for widths in members:
        assert all(low <= width <= high and width % multiple == 0 for width in widths)


def test_the_range_ends_at_the_baseline():
    assert scaled_members(mlp(7, 7), SpaceSpec()) == tuple((n, n) for n in range(1, 8))
    assert scaled_members(mlp(40, 20), SpaceSpec())[-1] == (40, 20)
    assert scaled_members(mlp(40, 20), SpaceSpec(min_width=60)) == ()


def test_a_baseline_of_many_members_may_be_replaced_by_wider_ones():
    spec = ResNextBaseline(family="resnext", layout="imagenet", depth=50, cardinality=32, base_width=4)
    problem = build_problem(SearchSpec(baseline=spec))
    own = problem.network.count("parameters", (4, 4), 32)
    assert (4, 4) in problem.members
    assert (14, 14) in problem.members
    assert all(problem.network.count("parameters", widths, 1) <= own for widths in problem.members)


def test_long_ranges_are_thinned_and_filled_again():
    network = mlp(1_000_000, 50_000)
    members = scaled_members(network, SpaceSpec())
    assert len(members) <= 520
    assert members[-1] == (1_000_000, 50_000)
    assert [widths[0] for widths in members[:256]] == list(range(1, 257))
    assert between(network, SpaceSpec(), 5000, 5003) == tuple((n, 250) for n in range(5000, 5004))
    assert len(between(network, SpaceSpec(), 1, 10**6)) <= 512


def test_listed_widths_are_tied_or_whole_vectors_each_once():
    network = build_network(PresetBaseline(preset="mlp-cifar-400-200-100"))
    space = SpaceSpec(widths=(40, (7, 8, 9), 40))
    assert listed_members(network, space) == ((40, 20, 10), (7, 8, 9))


def test_groups_above_a_free_width_must_divide_it():
    network = build_network(BlockBaseline.model_validate_json(GROUPED))
    assert scaled_members(network, SpaceSpec()) == ((6,), (12,), (18,), (24,))
    assert scaled_members(network, SpaceSpec(multiple_of=4)) == ((12,), (24,))
    assert listed_members(network, SpaceSpec(widths=(6, 7))) == ((6,),)
    assert vector_values(network, SpaceSpec())[0].tolist() == [6, 12, 18, 24]


@pytest.mark.parametrize("high", [10, 5000, 1_000_000])
def test_vector_values_are_sorted_and_bounded(high):
    values = vector_values(mlp(10, 20), SpaceSpec(min_width=2, max_width=high))
    assert len(values) == 2
    for allowed in values:
        assert (allowed[0], allowed[-1]) == (2, high)
        assert (allowed[1:] > allowed[:-1]).all()
        assert len(allowed) <= 4096
