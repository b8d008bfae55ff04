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
