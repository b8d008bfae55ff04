"""Random samples of what a network reads: bounds, kinds, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest

from collegium.search.errors import InvalidSpec
from collegium.search.networks.graph.content import Input
from collegium.search.whole_network.inputs.samples import Samples, drawn_samples, text_of_inputs

IDS = Input(name="ids", shape=(50,), content="integer", below=7)
X = Input(name="x", shape=(3, 4, 4))
MASK = Input(name="mask", shape=(50,), content="integer", below=2**31)
DEEP = Input(name="deep", shape=(2, 3, 4, 5))


def test_each_kind_is_drawn_as_it_is_described():
    ids, x, mask, deep = drawn_samples([IDS, X, MASK, DEEP], 40, 0.5, seed=1).arrays
    assert (ids.dtype, ids.min(), ids.max()) == (np.int64, 0, 6)
    counts = np.bincount(ids.ravel(), minlength=7)
    assert (abs(counts - 2000 / 7) < 5 * (2000 * (1 / 7) * (6 / 7)) ** 0.5).all()
    assert x.shape == (40, 3, 4, 4)
    assert np.square(x).mean((1, 2, 3)) == pytest.approx(np.ones(40), rel=1e-5)
    assert (mask == 1).all()
    assert (deep.shape, deep.dtype) == ((40, 2, 3, 4, 5), np.float32)
    assert text_of_inputs([IDS, MASK]) == "ids of 50 (integers from 0 to 6), mask of 50 (all 1)"
    assert text_of_inputs([X]) == "3×4×4"


def test_inputs_follow_from_the_seed_and_are_independent_of_each_other():
    two = Input(name="y", shape=(3, 4, 4))
    one = drawn_samples([X, two], 4, 0.0, seed=1)
    again, other = drawn_samples([X, two], 4, 0.0, seed=1), drawn_samples([X, two], 4, 0.0, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(one.arrays, again.arrays, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one.arrays, other.arrays, strict=True))
    assert abs(np.corrcoef(one.arrays[0].ravel(), one.arrays[1].ravel())[0, 1]) < 5 / 192**0.5


def test_samples_are_taken_of_all_tensors_but_shared_ones():
    batch = Samples((np.arange(6).reshape(3, 2), np.arange(3), np.arange(4)), frozenset({2}))
    assert (batch.count, batch.first(2).count) == (3, 2)
    x, y, shared = batch.at(2).arrays
    assert (x.tolist(), y.tolist(), shared.tolist()) == ([[4, 5]], [2], [0, 1, 2, 3])


def test_too_many_numbers_are_refused_before_they_are_drawn():
    with pytest.raises(InvalidSpec, match=r"network\.images: 1024 samples"):
        drawn_samples([Input(name="x", shape=(10**6,))], 1024, None, seed=0)
