"""From published arrays to splits: limits, validation samples held out, label noise, normalization."""

from __future__ import annotations

import numpy as np
import torch

from collegium.train.data.arrays import Arrays
from collegium.train.data.dataset import ArraySplit, Dataset, Preprocessing
from collegium.train.errors import DataError
from collegium.train.spec.data import DataSpec


def split_arrays(arrays: Arrays, spec: DataSpec) -> Dataset:
    """Training, validation and test splits of ``arrays``; every choice follows from ``spec.seed`` alone.

    Raises ``DataError`` where nothing would be left to train on, or where labels that are sequences should be noisy.
    """
    kept, y_kept, held_out = choose_samples(arrays.y_train, arrays.classes, spec)
    x_train = torch.from_numpy(np.ascontiguousarray(arrays.x_train[kept]))
    test = choose_test(len(arrays.x_test), spec, ordered=arrays.ordered)
    return Dataset(
        name=spec.name,
        kind=arrays.kind,
        shape=tuple(arrays.x_train.shape[1:]),
        classes=arrays.classes,
        train=ArraySplit(x_train, torch.from_numpy(np.ascontiguousarray(y_kept))),
        validation=_split(arrays.x_train[held_out], arrays.y_train[held_out]) if len(held_out) else None,
        test=_split(arrays.x_test[test], arrays.y_test[test]),
        preprocessing=Preprocessing.fit(x_train, arrays.kind, mean_image=arrays.mean_image),
        vocabulary=arrays.vocabulary,
        padding=arrays.padding,
        summary={
            **arrays.summary,
            "train": len(kept),
            "validation": len(held_out),
            "test": len(arrays.x_test[test]),
            "replaced_labels": int((y_kept != arrays.y_train[kept]).sum()) if spec.label_noise else 0,
        },
    )


def choose_test(count: int, spec: DataSpec, *, ordered: bool) -> np.ndarray:
    """Which of ``count`` test samples are kept, rising: the first ones, or, where they are ``ordered``, drawn ones."""
    limit = spec.limit if spec.test_limit is None else spec.test_limit
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng([spec.seed, 6]).permutation(count)[:limit]) if ordered else np.arange(limit)


def choose_samples(y: np.ndarray, classes: int, spec: DataSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which training samples are kept, in a random order, their labels with noise, and which are held out.

    ``y`` are the labels of all training samples; the samples are given by their indices.
    """
    generator = np.random.default_rng(spec.seed)
    order = generator.permutation(len(y))
    held_out, kept = held_out_first(order[: spec.limit] if spec.limit else order, spec.validation)
    y_kept = y[kept]
    if spec.label_noise:
        y_kept = replace_labels(y_kept, classes, spec.label_noise, generator)
    return kept, y_kept, held_out


def held_out_first(order: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The first ``fraction`` of the shuffled ``order``, for validation, and the rest, for training."""
    count = round(fraction * len(order))
    if fraction and not 0 < count < len(order):
        raise DataError(
            f"a validation fraction of {fraction} leaves {count} of {len(order)} training samples for validation",
            "choose a fraction that leaves samples on both sides",
        )
    return order[:count], order[count:]


def replace_labels(y: np.ndarray, classes: int, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """``y`` with ``fraction`` of the labels replaced, each by one of the other classes with equal probability."""
    if y.ndim != 1 or classes < 2:
        raise DataError("label noise needs labels that are classes", "leave label_noise at 0 for this data")
    chosen = generator.permutation(len(y))[: round(fraction * len(y))]
    if not len(chosen):
        raise DataError(f"a label noise of {fraction} replaces none of {len(y)} labels", "give more, or leave it out")
    noisy = y.copy()
    noisy[chosen] = (y[chosen] + generator.integers(1, classes, len(chosen))) % classes
    return noisy


def _split(x: np.ndarray, y: np.ndarray) -> ArraySplit:
    return ArraySplit(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y)))
