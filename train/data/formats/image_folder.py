"""ImageNet, and any folder of labelled images: ``train/<class>/…`` with ``val/<class>/…`` or ``test/<class>/…``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collegium.counted import counted
from collegium.train.data.arrays import IMAGE_SIZE, ImageFiles
from collegium.train.data.format import GENERIC_RECIPE, DataFormat, Folders, Sample
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.data.dataset import Dataset
    from collegium.train.spec.data import DataSpec

IMAGENET = "imagenet"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})


class ImageFolder(DataFormat):
    """Images in a folder of the data folder; ``imagenet`` is one with a recipe of its own."""

    summary = "labelled images in one folder for each class, decoded at 224 × 224 while training"
    names = (IMAGENET,)
    layout = "a folder with train/<class>/… and val/<class>/… of images inside the data folder"

    def files(self, name: str) -> tuple[str, ...]:
        """The folder itself."""
        return (name,)

    def source(self, name: str) -> str:
        """The folders of training and validation."""
        return f"; the folder {name} holds train/<class>/… and val/<class>/… of images"

    def finds(self, name: str, folders: Folders) -> bool:
        """Whether there is a folder of this name with a folder ``train``."""
        return folders.data is not None and (folders.data / name / "train").is_dir()

    def sample(self, spec: DataSpec) -> Sample:
        """An image of three channels, whatever the size of the file's."""
        return Sample("image", (3, IMAGE_SIZE, IMAGE_SIZE))

    def recipe(self, name: str) -> str:
        """That of Littwin et al. 2020 for ImageNet."""
        return "ce-imagenet" if name == IMAGENET else GENERIC_RECIPE

    def load(self, spec: DataSpec, folders: Folders) -> Dataset:
        """The images, to be decoded batch by batch."""
        from collegium.train.data.decoding import split_images

        assert folders.data is not None
        return split_images(list_images(folders.data / spec.name), spec)


def list_images(folder: Path) -> ImageFiles:
    """The labelled images below ``folder``; classes are the sorted names of the training folders.

    Raises ``DataError`` where a folder or its images are missing.
    """
    tests = [folder / name for name in ("val", "validation", "test") if (folder / name).is_dir()]
    if not (folder / "train").is_dir() or not tests:
        raise DataError(
            f"{folder.name} has no {'train' if tests else 'val or test'} folder",
            "put train/<class>/… and val/<class>/… there",
        )
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    if len(classes) < 2:
        raise DataError(
            f"{folder.name}/train has {counted(len(classes), 'class', 'classes')}",
            "give each class a folder of its images",
        )
    return ImageFiles(*_listed(folder / "train", classes), *_listed(tests[0], classes), tuple(classes))


def _listed(folder: Path, classes: list[str]) -> tuple[tuple[Path, ...], np.ndarray]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(
            f"{folder.parent.name}/{folder.name} holds no images", f"put {', '.join(sorted(SUFFIXES))} there"
        )
    return tuple(paths), np.array(labels, np.int64)
