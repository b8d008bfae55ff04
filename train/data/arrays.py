"""Data before any of it is held out: samples and labels as NumPy arrays, or as files of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from collegium.counted import counted
from collegium.train.errors import DataError

Kind = Literal["image", "features", "tokens"]
IMAGE_SIZE = 224  # pixels of a side, to which files of images are decoded


@dataclass(frozen=True)
class Arrays:
    """A training and a test split.

    ``x`` is ``(samples, …)``: uint8 or float32 images ``(samples, channels, height, width)``, float32 features
    ``(samples, features)``, or int64 tokens ``(samples, tokens)``. ``y`` is ``(samples,)`` int64, counted from 0, for
    ``classes`` classes; or sequences of tokens ``(samples, tokens)``, padded with −100, with ``classes`` 0.
    ``vocabulary`` bounds tokens, and ``padding`` is the tokenizer's own, which inputs have in the place of 0 and 0 in
    the place of it. ``mean_image`` normalizes by the mean image in place of the mean of each channel.
    ``ordered`` says that samples may follow an order, such as that of their classes, so that the first ones are no
    fair choice. ``summary`` describes the source in plain values.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    kind: Kind = "image"
    vocabulary: int = 0
    padding: int = 0
    mean_image: bool = False
    ordered: bool = False
    summary: dict[str, Any] = field(default_factory=dict)

    def checked(self, name: str) -> Arrays:
        """Return itself where each split is consistent. Raises ``DataError`` naming the array."""
        for split, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            check_split(x, y, self.classes, split, name)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DataError(
                f"{name}: x_train has samples of shape {self.x_train.shape[1:]}, x_test of {self.x_test.shape[1:]}",
                "give both splits the same shape",
            )
        return self


@dataclass(frozen=True)
class ImageFiles:
    """Paths of training and test images, their labels, ``(images,)`` int64, and the names of the classes."""

    train: tuple[Path, ...]
    y_train: np.ndarray
    test: tuple[Path, ...]
    y_test: np.ndarray
    classes: tuple[str, ...]


def check_split(x: np.ndarray, y: np.ndarray, classes: int, split: str, name: str) -> None:
    """Refuse a split with no samples, unequal lengths, values that are not finite, or labels out of range."""
    if len(x) == 0:
        raise DataError(f"{name}: x_{split} is empty", "give at least one sample")
    if x.ndim < 2:
        raise DataError(f"{name}: x_{split} has shape {x.shape}", "samples come first, then at least one feature")
    if y.shape != (len(x),):
        raise DataError(
            f"{name}: y_{split} has shape {y.shape} and x_{split} has {counted(len(x), 'sample')}",
            "give one label to each sample",
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{name}: y_{split} has type {y.dtype}", "labels are integers, counted from 0")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise DataError(
            f"{name}: y_{split} holds labels from {int(y.min())} to {int(y.max())} for "
            f"{counted(classes, 'class', 'classes')}",
            "labels are counted from 0",
        )
    if np.issubdtype(x.dtype, np.floating) and not all(np.isfinite(part).all() for part in np.array_split(x, 16)):
        raise DataError(f"{name}: x_{split} holds NaN or infinite values", "replace them before uploading")
