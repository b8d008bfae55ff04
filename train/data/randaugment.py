"""RandAugment (Cubuk et al. 2020), by the library kornia, an optional extra."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from collegium.train.data.dataset import ArraySplit, Split
from collegium.train.errors import MissingExtra

GROUP = 16
"""Images that share their operations: kornia draws these for a batch."""
COLOUR = 3


def require_kornia() -> None:
    """Raise ``MissingExtra`` where kornia is not installed; nothing is imported."""
    if find_spec("kornia") is None:
        raise MissingExtra(
            "kornia is not installed, which randaugment needs", "install it with: pip install 'collegium[augment]'"
        )


def value_range(split: Split) -> tuple[float, float]:
    """The least and the largest value of the samples of ``split``; those of bytes where they are not in memory."""
    if not isinstance(split, ArraySplit):
        return 0.0, 255.0
    low, high = (float(value) for value in torch.aminmax(split.x))
    return (low, high) if high > low else (low, low + 1.0)


@dataclass(frozen=True)
class RandAugment:
    """``operations`` of fifteen, drawn anew for each sixteen images, at one ``magnitude`` of 1 … 29 of 30.

    The operations are kornia's and those of the paper: contrast, equalizing, inverting, rotation, posterizing,
    solarizing, colour, brightness, sharpness, shearing and translation, the last ones with a sign drawn for each image.
    Images are grey or of three channels; ``low`` and ``high`` are the values of black and white.
    """

    operations: int = 2
    magnitude: int = 10
    low: float = 0.0
    high: float = 255.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented ``(batch, channels, height, width)``, within ``low`` and ``high``."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        channels, extent = images.shape[1], self.high - self.low
        scaled = ((images - self.low) / extent).clamp(0, 1)
        scaled = scaled.expand(-1, COLOUR, -1, -1) if channels == 1 else scaled
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():  # kornia draws from torch's global generators
            torch.manual_seed(seed)
            augmented = torch.cat([self._policy(group) for group in scaled.split(GROUP)])
        return augmented[:, :channels] * extent + self.low

    @cached_property
    def _policy(self) -> Any:
        from kornia.augmentation.auto import RandAugment as Policy

        return Policy(n=self.operations, m=self.magnitude)
