"""The recipes' augmentations, for a whole batch at once, on the device that trains.

Each takes images ``(batch, channels, height, width)`` as float and a ``torch.Generator`` on the same device, and draws
independently for every image. Nothing loops over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Augment = Callable[[Tensor, torch.Generator], Tensor]

PAD = 4
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
JITTER = 0.4


def _uniform(count: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device) * (high - low) + low


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = _uniform(len(images), generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def pad_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad by four pixels of zero on every side and crop the original size at a random offset."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (PAD, PAD, PAD, PAD))
    offsets = torch.randint(0, 2 * PAD + 1, (2, count), generator=generator, device=images.device)
    rows = offsets[0][:, None] + torch.arange(height, device=images.device)
    columns = offsets[1][:, None] + torch.arange(width, device=images.device)
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop a box of 8 … 100 % of the area and aspect ratio 3/4 … 4/3, and scale it bilinearly to the image's size.

    Boxes that would leave the image are narrowed to it, so that the crop is always inside it.
    """
    count = len(images)
    area = _uniform(count, generator, *SCALE)
    ratio = torch.exp(_uniform(count, generator, math.log(RATIO[0]), math.log(RATIO[1])))
    wide = torch.sqrt(area * ratio).clamp(max=1.0)
    tall = torch.sqrt(area / ratio).clamp(max=1.0)
    left = _uniform(count, generator) * (1 - wide)
    top = _uniform(count, generator) * (1 - tall)
    theta = torch.zeros(count, 2, 3, device=images.device, dtype=images.dtype)
    # affine_grid's coordinates run from −1 to 1 over the image; the box is centred at 2·(left + wide / 2) − 1.
    theta[:, 0, 0], theta[:, 0, 2] = wide, 2 * left + wide - 1
    theta[:, 1, 1], theta[:, 1, 2] = tall, 2 * top + tall - 1
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def color(images: Tensor, generator: torch.Generator) -> Tensor:
    """Jitter brightness, contrast and saturation, each by a factor of 1 ± 0.4, in that order."""
    count = len(images)

    def factor() -> Tensor:
        return _uniform(count, generator, 1 - JITTER, 1 + JITTER)[:, None, None, None]

    images = images * factor()
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factor()
    grey = images.mean(dim=1, keepdim=True)
    return grey + (images - grey) * factor()


AUGMENTATIONS: dict[str, Augment] = {
    "flip": flip,
    "pad_crop": pad_crop,
    "random_resized_crop": random_resized_crop,
    "color": color,
}


def compose(names: Sequence[str], augmentations: Mapping[str, Augment] = AUGMENTATIONS) -> Augment | None:
    """The named augmentations one after the other, or None for none."""
    if not names:
        return None
    steps = [augmentations[name] for name in names]

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return images

    return apply
