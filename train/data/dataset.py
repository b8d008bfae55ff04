"""A data set as training sees it: three splits, the shape of a sample, and how raw samples become inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from collegium.train.data.arrays import Kind

Batch = tuple[Tensor, Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Raw samples and a generator on their device → augmented samples of one shape."""


class Split(Protocol):
    """Labelled samples, in memory or on disk."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def to(self, device: torch.device) -> Split:
        """The same samples, with batches on ``device``."""
        ...

    def batches(self, order: Tensor, size: int, *, draw: int | None = None) -> Iterator[Batch]:
        """Raw samples and labels at ``order[0:size]``, ``order[size:2·size]``, …, on the split's device.

        ``order`` is a CPU tensor of indices. A split that augments while it decodes (crops of large images) takes its
        random numbers from ``draw``, a seed for this pass, and from each sample's index; without it, it does not.
        """
        ...


@dataclass(frozen=True)
class ArraySplit:
    """Samples held whole in the memory of one device: ``x`` ``(samples, …)``, ``y`` ``(samples,)`` or token labels."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> ArraySplit:
        """The same samples on ``device``."""
        return ArraySplit(self.x.to(device), self.y.to(device))

    def batches(self, order: Tensor, size: int, *, draw: int | None = None) -> Iterator[Batch]:
        """One gather for each batch; no copies between devices."""
        order = order.to(self.x.device)
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            yield self.x.index_select(0, indices), self.y.index_select(0, indices)


@dataclass(frozen=True)
class Preprocessing:
    """Inputs from raw samples: ``(x.float() − mean) / std``; ``mean`` and ``std`` broadcast over a batch.

    ``channels`` repeats a single-channel image for a network that wants that many. Tokens pass unchanged.
    ``channels_last`` is a layout in memory, not another value.
    """

    mean: Tensor | None = None
    std: Tensor | None = None
    channels: int | None = None
    channels_last: bool = False

    @classmethod
    def fit(cls, x: Tensor, kind: Kind, *, mean_image: bool = False) -> Preprocessing:
        """Mean and deviation of training samples, by channel of an image or by feature of a vector.

        ``mean_image`` subtracts the mean image, and divides by one deviation for all channels.
        """
        if kind == "tokens":
            return cls()
        # A float64 mean of bytes is exact for every data set of interest; the chunks keep memory bounded.
        axes = [0] if kind == "features" or mean_image else [0, *range(2, x.ndim)]
        total = sum(chunk.double().sum(axes, keepdim=True) for chunk in x.split(4096))
        count = x.numel() // total.numel()  # type: ignore[union-attr]
        mean = total / count
        squares = sum(((chunk.double() - mean) ** 2).sum(axes, keepdim=True) for chunk in x.split(4096))
        variance = squares / count
        if mean_image:
            variance = variance.mean(tuple(range(1, x.ndim)), keepdim=True)  # type: ignore[union-attr]
        std = variance.sqrt()  # type: ignore[union-attr]
        std = torch.where(std > 1e-12, std, torch.ones_like(std))  # a constant feature stays at zero
        return cls(mean[0].float(), std[0].float())  # type: ignore[index]

    def to(self, device: torch.device) -> Preprocessing:
        """The same transformation on ``device``."""
        moved = {name: value.to(device) for name in ("mean", "std") if (value := getattr(self, name)) is not None}
        return replace(self, **moved)

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs of the network."""
        if self.mean is None or self.std is None:
            return x
        x = (x.float() - self.mean) / self.std
        x = x if self.channels is None else x.expand(-1, self.channels, *x.shape[2:])
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def describe(self) -> dict[str, Any]:
        """The transformation as JSON-able numbers; float32 values survive the round trip exactly."""
        if self.mean is None or self.std is None:
            return {}
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "channels": self.channels}


@dataclass(frozen=True)
class Dataset:
    """Labelled data, split and described.

    ``shape`` is that of one sample: ``(channels, height, width)``, ``(features,)`` or ``(tokens,)``. ``classes`` is
    the number of classes, 0 where the labels are sequences of tokens. Token labels are padded with −100, token inputs
    with 0; ``vocabulary`` bounds both. A tokenizer's own ``padding``, another token, and 0 are exchanged in inputs.
    ``summary`` gives the source and the split in plain values.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    classes: int
    train: Split
    validation: Split | None
    test: Split
    preprocessing: Preprocessing = Preprocessing()
    vocabulary: int = 0
    padding: int = 0
    summary: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> Dataset:
        """The same data with batches on ``device``."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
            preprocessing=self.preprocessing.to(device),
        )
