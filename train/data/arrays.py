"""In-memory data as it was published: images as bytes, labels as integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collegium.train.errors import DataError


@dataclass(frozen=True)
class LabelledArrays:
    """A training and a test split.

    ``x`` is ``(samples, …)``, uint8 for images of shape ``(samples, channels, height, width)`` or float32 for
    features; ``y`` is ``(samples,)`` int64, counted from 0. ``classes`` is the number of classes.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int

    def checked(self, name: str) -> LabelledArrays:
        """Itself, once every split is known to be consistent. Raises ``DataError`` naming the array."""
        for split, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            check_split(x, y, self.classes, split, name)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DataError(
                f"{name}: x_train has samples of shape {self.x_train.shape[1:]}, x_test of {self.x_test.shape[1:]}",
                "give both splits the same shape",
            )
        return self


def check_split(x: np.ndarray, y: np.ndarray, classes: int, split: str, name: str) -> None:
    """Refuse a split with no samples, unequal lengths, values that are not finite, or labels out of range."""
    if len(x) == 0:
        raise DataError(f"{name}: x_{split} is empty", "give at least one sample")
    if x.ndim < 2:
        raise DataError(f"{name}: x_{split} has shape {x.shape}", "samples come first, then at least one feature")
    if y.shape != (len(x),):
        raise DataError(
            f"{name}: y_{split} has shape {y.shape} beside {len(x)} samples in x_{split}",
            "give one label to each sample",
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{name}: y_{split} has type {y.dtype}", "labels are integers, counted from 0")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise DataError(
            f"{name}: y_{split} holds labels from {int(y.min())} to {int(y.max())} for {classes} classes",
            "labels are counted from 0",
        )
    if np.issubdtype(x.dtype, np.floating) and not all(np.isfinite(part).all() for part in np.array_split(x, 16)):
        raise DataError(f"{name}: x_{split} holds NaN or infinite values", "replace them before uploading")
