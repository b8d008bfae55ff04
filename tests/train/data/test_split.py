"""How many samples are kept of each split."""

import numpy as np
import pytest

from collegium.train.data.arrays import Arrays
from collegium.train.data.split import split_arrays
from collegium.train.spec.data import DataSpec


@pytest.mark.parametrize(
    ("fields", "train", "test"),
    [
        ({}, 60, 40),
        ({"limit": 20}, 20, 20),
        ({"limit": 20, "test_limit": 30}, 20, 30),
        ({"test_limit": 1}, 60, 1),
        ({"limit": 1000, "test_limit": 1000}, 60, 40),
    ],
)
def test_limits_keep_training_and_test_samples(fields, train, test):
    generator = np.random.default_rng(0)
    x_train, x_test = (generator.normal(size=(count, 3)).astype(np.float32) for count in (60, 40))
    arrays = Arrays(x_train, np.arange(60) % 5, x_test, np.arange(40) % 5, 5, kind="features")
    found = split_arrays(arrays, DataSpec.model_validate({"name": "digits", **fields}))
    assert (len(found.train), len(found.test)) == (train, test)
    assert (found.summary["train"], found.summary["test"]) == (train, test)
    np.testing.assert_array_equal(found.test.x.numpy(), x_test[:test])


@pytest.mark.parametrize("seed", [0, 7])
def test_samples_in_the_order_of_their_classes_are_drawn_for_a_limited_test(seed):
    """The first forty of two hundred would be of two classes; those that are drawn are the same in every training."""
    y = np.repeat(np.arange(10), 20)
    x = np.arange(200, dtype=np.float32)[:, None] + 1
    arrays = Arrays(x, y, x, y, 10, kind="features", ordered=True)
    fields = {"name": "digits", "test_limit": 40, "seed": seed}
    kept = [split_arrays(arrays, DataSpec.model_validate(fields | more)).test for more in ({}, {"limit": 100})]
    assert len(kept[0].y.unique()) > 7
    assert len(kept[0].x.unique()) == 40
    np.testing.assert_array_equal(y[kept[0].x[:, 0].long() - 1], kept[0].y)
    np.testing.assert_array_equal(kept[0].x, kept[1].x)
    whole = split_arrays(arrays, DataSpec.model_validate({"name": "digits", "seed": seed})).test
    np.testing.assert_array_equal(whole.x.numpy(), x)
