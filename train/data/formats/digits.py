"""scikit-learn's digits: 1797 grey images of 8 × 8, half for training and half for testing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders, Sample

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec


class Digits(DataFormat):
    """The digits, which scikit-learn carries."""

    summary = "scikit-learn's digits: grey images of 8 × 8, 898 for training and 899 for testing"
    names = ("digits",)

    def sample(self, spec: DataSpec) -> Sample:
        """An image of one channel."""
        return Sample("image", (1, 8, 8), training=898)

    def recipe(self, name: str) -> str:
        """The recipe of the same name."""
        return "digits"

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """The digits, split by the specification's seed."""
        return load_digits(spec.seed)


def load_digits(seed: int = 0) -> Arrays:
    """The digits; ``seed`` shuffles 898 training from 899 test images. Pixels are integers 0 … 16.

    They were published without a split of this size: varying the seed measures the error over splits.
    """
    from sklearn.datasets import load_digits as published

    x, y = published(return_X_y=True)
    order = np.random.default_rng([seed, 3]).permutation(len(x))
    images = x.reshape(-1, 1, 8, 8).astype(np.uint8)[order]
    labels = y.astype(np.int64)[order]
    half = len(x) // 2
    return Arrays(images[:half], labels[:half], images[half:], labels[half:], 10, summary={"source": "scikit-learn"})
