"""The nearest values that fall with every width, against other ways of finding them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, nnls

from collegium.search.curve.monotone import falling, falling_draws
from collegium.search.curve.source import Sampled


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 1)), min_size=1, max_size=30))
def test_of_single_widths_it_is_the_isotonic_regression(points):
    values, errors = np.array(points).T
    expected = isotonic_regression(values, weights=errors**-2.0, increasing=False).x
    widths = 3 + 2 * np.arange(len(points))[:, None]
    assert falling(widths, values, errors) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=12, unique=True), st.integers(0, 99)
)
def test_of_vectors_it_is_the_least_move_that_no_pair_crosses(vectors, seed):
    widths, generator = np.array(vectors), np.random.default_rng(seed)
    values, errors = generator.uniform(0, 2, len(widths)), generator.uniform(0.1, 0.5, len(widths))
    found = falling(widths, values, errors)
    pairs = [
        (narrow, wide)
        for narrow in range(len(widths))
        for wide in range(len(widths))
        if narrow != wide and (widths[wide] >= widths[narrow]).all()
    ]
    assert all(found[wide] <= found[narrow] for narrow, wide in pairs)
    # the dual: forces that no pair pulls with, of all pairs and not of the next ones alone
    forces = np.zeros((len(widths), max(1, len(pairs))))
    for at, (narrow, wide) in enumerate(pairs):
        forces[narrow, at], forces[wide, at] = errors[narrow], -errors[wide]
    moved = values + errors * (forces @ nnls(forces, -values / errors)[0])
    assert found == pytest.approx(moved, abs=1e-3)


def test_what_falls_stays_as_it_is():
    widths = np.array([[2, 3], [4, 3], [2, 9], [5, 10]])
    values = np.array([2.0, 1.0, 3.0, 0.5])  # of (4, 3) and (2, 9) neither is the wider
    assert falling(widths, np.array([3.0, 1.0, 2.0, 0.5]), np.ones(4)).tolist() == [3.0, 1.0, 2.0, 0.5]
    assert falling(widths, values, np.ones(4)) == pytest.approx([2.5, 1.0, 2.5, 0.5])
    assert falling(np.empty((0, 2)), np.empty(0), np.empty(0)).tolist() == []


def test_draws_fall_as_estimates_do_and_a_member_has_one_value_in_each():
    known = {(2,): 1.0, (3,): 0.98, (4,): 0.97, (6,): 0.5}
    source = Sampled(known, dict.fromkeys(known, 0.05), falls=True)
    widths = np.array([[4], [2], [3], [4], [6], [2]])
    drawn = source.redraw(widths, np.random.default_rng(0), 2000)
    by_width = drawn[:, [1, 2, 0, 4]]
    assert (np.diff(by_width, axis=1) <= 0).all()
    assert (drawn[:, 0] == drawn[:, 3]).all()
    assert (drawn[:, 1] == drawn[:, 5]).all()
    # what lies far from the others is as it was drawn: the mean and the deviation of its estimate
    assert drawn[:, 4].mean() == pytest.approx(0.5, abs=4 * 0.05 / 2000**0.5)
    assert drawn[:, 4].std() == pytest.approx(0.05, rel=0.1)
    # near ones pull each other together: less spread than their errors, the same mean
    assert by_width[:, :3].mean() == pytest.approx(0.9833, abs=0.005)
    assert drawn[:, 2].std() < 0.045


def test_draws_at_vectors_without_an_order_stay_as_they_are():
    widths, draws = np.array([[2, 3], [3, 2]]), np.array([[1.0, 2.0], [2.0, 1.0]])
    assert falling_draws(widths, draws, np.ones(2)).tolist() == draws.tolist()
