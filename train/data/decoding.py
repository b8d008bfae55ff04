"""Image files as splits of a data set: decoded, cropped and scaled while the device trains.

Images stay on disk. Threads decode the next batches while the device trains on the last one (Pillow releases the
interpreter's lock while it decodes and scales), and bytes, not floats, are copied to the device.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from collegium.train.data.arrays import IMAGE_SIZE, ImageFiles
from collegium.train.data.augment import RATIO, SCALE
from collegium.train.data.dataset import Batch, Dataset, Preprocessing
from collegium.train.data.split import choose_samples, choose_test
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

SHORT_SIDE = 256
MAX_PIXELS = 200_000_000
NORMALIZATION_SAMPLES = 2048
AHEAD = 3


@dataclass(frozen=True)
class DecodedSplit:
    """Paths and labels; batches are decoded on demand.

    Evaluation scales the short side to 256 and takes the central 224 × 224 pixels. With a ``draw`` the sample is
    cropped at random (8 … 100 % of the area, aspect ratio 3/4 … 4/3) while it is decoded, from a generator of the draw
    and its index.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    size: int = IMAGE_SIZE

    #: Augmentations that this split applies itself; the batch must not apply them again.
    augments: ClassVar[frozenset[str]] = frozenset({"random_resized_crop"})

    def __len__(self) -> int:
        return len(self.paths)

    def to(self, device: torch.device) -> DecodedSplit:
        """The same samples, with batches on ``device``."""
        return replace(self, device=device)

    def batches(self, order: Tensor, size: int, *, draw: int | None = None) -> Iterator[Batch]:
        """Bytes ``(batch, 3, 224, 224)`` and labels, decoded ``AHEAD`` batches ahead. Raises ``DataError``."""
        with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
            waiting: deque = deque()
            for chunk in order.split(size):
                waiting.append((chunk, [pool.submit(self._sample, int(index), draw) for index in chunk]))
                if len(waiting) > AHEAD:
                    yield self._collect(*waiting.popleft())
            while waiting:
                yield self._collect(*waiting.popleft())

    def _collect(self, chunk: Tensor, futures: list) -> Batch:
        x = torch.from_numpy(np.stack([future.result() for future in futures]))
        return x.to(self.device, non_blocking=True), self.labels[chunk].to(self.device, non_blocking=True)

    def _sample(self, index: int, draw: int | None) -> np.ndarray:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path.name} has {image.width} × {image.height} pixels", "make it smaller")
                if draw is None:
                    pixels = _central(image, self.size)
                else:
                    pixels = _random_crop(image, self.size, np.random.default_rng([draw, index]))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DataError(f"{path.parent.name}/{path.name} is no readable image", "replace or remove it") from error
        return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))


def _central(image: Image.Image, size: int) -> Image.Image:
    short = min(image.width, image.height)
    side = short * IMAGE_SIZE / SHORT_SIDE
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _cut(image, (left, top, left + side, top + side), size)


def _random_crop(image: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    area = image.width * image.height * generator.uniform(*SCALE)
    ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
    width = min(image.width, math.sqrt(area * ratio))
    height = min(image.height, math.sqrt(area / ratio))
    left = generator.uniform(0, image.width - width)
    top = generator.uniform(0, image.height - height)
    return _cut(image, (left, top, left + width, top + height), size)


def _cut(image: Image.Image, box: tuple[float, float, float, float], size: int) -> Image.Image:
    before = image.size
    shrink = min(box[2] - box[0], box[3] - box[1]) / size
    if shrink >= 2:
        # JPEG can decode at 1/2, 1/4 or 1/8 of its size, much faster, where the box still has enough pixels.
        image.draft("RGB", (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
    scale = (image.width / before[0], image.height / before[1])
    shown = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
    return image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=shown)


def split_images(images: ImageFiles, spec: DataSpec) -> Dataset:
    """Training, validation and test splits of ``images``; every choice follows from ``spec.seed`` alone.

    The mean and deviation of each channel come from 2048 training images. Raises ``DataError``.
    """
    kept, y_kept, held_out = choose_samples(images.y_train, len(images.classes), spec)
    train = _decoded(images.train, kept, y_kept)
    test = choose_test(len(images.test), spec, ordered=True)
    return Dataset(
        name=spec.name,
        kind="image",
        shape=(3, IMAGE_SIZE, IMAGE_SIZE),
        classes=len(images.classes),
        train=train,
        validation=_decoded(images.train, held_out, images.y_train[held_out]) if len(held_out) else None,
        test=_decoded(images.test, test, images.y_test[test]),
        preprocessing=_normalization(train),
        summary={
            "source": "image folder",
            "train": len(kept),
            "validation": len(held_out),
            "test": len(test),
            "replaced_labels": int((y_kept != images.y_train[kept]).sum()),
        },
    )


def _decoded(paths: tuple[Path, ...], indices: np.ndarray, labels: np.ndarray) -> DecodedSplit:
    return DecodedSplit(tuple(paths[index] for index in indices), torch.from_numpy(labels))


def _normalization(train: DecodedSplit) -> Preprocessing:
    order = torch.arange(0, len(train), max(1, len(train) // NORMALIZATION_SAMPLES))
    images = torch.cat([x for x, _ in train.batches(order, 64)])
    return Preprocessing.fit(images, "image")
