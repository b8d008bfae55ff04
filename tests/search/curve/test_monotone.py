"""The nearest values that fall with every width, against other ways of finding them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, nnls

from collegium.search.curve.monotone import falling


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
