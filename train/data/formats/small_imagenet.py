"""ImageNet32 and ImageNet64 (Chrabaszcz et al. 2017) from the published batches or their npz form."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders, Sample
from collegium.train.data.formats.cifar import image_batch
from collegium.train.data.plain_pickle import read_plain_pickle
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

CLASSES = 1000
BATCHES = 10
SIDES = {"imagenet32": 32, "imagenet64": 64}


class SmallImageNet(DataFormat):
    """Either size, in a folder of its name."""

    summary = "ImageNet scaled to 32 × 32 or 64 × 64 pixels"
    names = tuple(SIDES)

    def files(self, name: str) -> tuple[str, ...]:
        """One folder with the published batches."""
        return (name,)

    def source(self, name: str) -> str:
        """The batches of training and validation."""
        batches = f"train_data_batch_1 to train_data_batch_{BATCHES} and val_data"
        return f"; the folder {name} holds {batches}, each as it is published or as .npz"

    def sample(self, spec: DataSpec) -> Sample:
        """An image of three channels."""
        return Sample("image", (3, SIDES[spec.name], SIDES[spec.name]))

    def recipe(self, name: str) -> str:
        """That of Littwin et al. 2020."""
        return "ce-imagenet32"

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """The published splits."""
        assert folders.data is not None
        return load_small_imagenet(spec.name, folders.data)


def load_small_imagenet(name: str, root: Path) -> Arrays:
    """``imagenet32`` or ``imagenet64`` from ``root/<name>``; images ``(samples, 3, side, side)``, labels from 0.

    The folder holds ``train_data_batch_1 … 10`` and ``val_data``, as published pickles or as ``.npz``; where fewer
    training batches are there, those are used. Raises ``DataError`` naming the file that is missing or wrong.
    """
    side = SIDES[name]
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"{name} is not in the data folder", f"put its batches into a folder called {name}")
    found = [batch for index in range(1, BATCHES + 1) if (batch := _find(folder, f"train_data_batch_{index}"))]
    validation = _find(folder, "val_data")
    if not found or validation is None:
        missing = "train_data_batch_1" if not found else "val_data"
        raise DataError(f"{name} has no {missing}", f"put {missing} or {missing}.npz into the folder {name}")
    batches = [_read(path, side) for path in found]
    x_test, y_test = _read(validation, side)
    x_train, y_train = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    summary = {"source": "ImageNet batches"}
    return Arrays(x_train, y_train, x_test, y_test, CLASSES, mean_image=True, summary=summary).checked(name)


def _find(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / f"{stem}.npz", folder / stem) if path.is_file()), None)


def _read(path: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    # The published labels are counted from 1.
    if path.suffix != ".npz":
        return image_batch(
            read_plain_pickle(path.read_bytes(), path.name), path.name, "labels", side=side, first_label=1
        )
    try:
        with np.load(path, allow_pickle=False) as batch:
            arrays = {key: batch[key] for key in ("data", "labels") if key in batch.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name} is no npz file of plain arrays", "fetch it again") from error
    return image_batch(arrays, path.name, "labels", side=side, first_label=1)
