"""Mixup and CutMix: each sample of a batch mixed with another one, and their labels in the same proportion.

Zhang et al. 2018 (mixup) and Yun et al. 2019 (CutMix). Batches are mixed as the network reads them, after augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from collegium.train.data.dataset import Batch


@dataclass(frozen=True)
class Mixing:
    """Mixes batches of samples of ``classes`` classes; ``mixup`` and ``cutmix`` are the α of Beta(α, α), 0 for none.

    Where both are given, each batch is mixed by one of them, chosen with equal probability.

    >>> import torch
    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    >>> mixed, shares = Mixing(classes=2, mixup=1.0)((x, y), seed=0)
    >>> torch.allclose(mixed[:, 0], shares[:, 1])
    True
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, batch: Batch, *, seed: int) -> Batch:
        """Mixed samples, and ``(batch, classes)`` the shares of the classes in each, which follow from ``seed`` alone.

        Sample i is mixed with sample π(i) of a random permutation, by a λ_i of its own: λ_i x_i + (1 − λ_i) x_π(i), or,
        in CutMix, a box of x_π(i) in x_i, whose share of the image is 1 − λ_i before it is cut off at the border.
        """
        x, y = batch
        generator = np.random.default_rng(seed)
        pairs = torch.from_numpy(generator.permutation(len(y))).to(y.device)
        cut = bool(self.cutmix) and (not self.mixup or generator.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        ratio = generator.beta(alpha, alpha, len(y))
        mixed, kept = _cut(x, x[pairs], ratio, generator) if cut else _blend(x, x[pairs], ratio)
        labels = functional.one_hot(y, self.classes).to(kept.dtype)
        return mixed, torch.lerp(labels[pairs], labels, kept[:, None])


def _blend(x: Tensor, other: Tensor, ratio: np.ndarray) -> tuple[Tensor, Tensor]:
    kept = torch.from_numpy(ratio).to(x.device, torch.float32)
    return torch.lerp(other, x, kept.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)), kept


def _cut(x: Tensor, other: Tensor, ratio: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    (height, width), side = x.shape[-2:], np.sqrt(1 - ratio)
    top, bottom = _span(height, side, generator)
    left, right = _span(width, side, generator)
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    inside = _within(top, bottom, height, x)[:, :, None] & _within(left, right, width, x)[:, None, :]
    return torch.where(inside[:, None], other, x), torch.from_numpy(kept).to(x.device, torch.float32)


def _span(extent: int, side: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of an interval for each sample, ``side`` of the ``extent`` long, around a uniform centre."""
    centre, length = generator.integers(0, extent, len(side)), np.floor(side * extent).astype(np.int64)
    begin = centre - length // 2
    return begin.clip(0, extent), (begin + length).clip(0, extent)


def _within(begin: np.ndarray, end: np.ndarray, extent: int, x: Tensor) -> Tensor:
    """Which of the positions 0 … ``extent`` − 1 are inside of the interval, ``(samples, extent)``."""
    first, last = (torch.from_numpy(edge).to(x.device)[:, None] for edge in (begin, end))
    place = torch.arange(extent, device=x.device)
    return (place >= first) & (place < last)
