"""Pools of a sampled chain, and activations behind them, on the windows that a kernel entry depends on.

A pool is the same for every draw: a mean is one matrix along each axis of the map, a maximum passes the gradient on to
where it was found. Both are taken along one axis after another, which gives the values and gradients of whole windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from collegium.search.kernel.receptive_field import LayerWindows
from collegium.search.networks.activation import Activation
from collegium.search.networks.chain import WeightLayer
from collegium.search.networks.pooling import PoolAxis, Pooling
from collegium.search.sampling.between.elementwise import activated, pulled_back

#: Dimensions before the axes of a map, ``(samples, inputs, …, channels)``.
FIRST = 2


class Between(Protocol):
    """A function of a map ``(samples, inputs, …, channels)`` without weights."""

    def forward(self, features: Tensor) -> Tensor:
        """Its value at ``features``."""
        ...

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient of the features of the last forward pass from that of the value."""
        ...


class LateActivation:
    """An activation behind a pool, elementwise."""

    def __init__(self, phi: Activation):
        self._phi = phi
        self._read = self._value = torch.empty(0)

    def forward(self, features: Tensor) -> Tensor:
        """φ of the features."""
        self._read, self._value = features, activated(self._phi, features)
        return self._value

    def backward(self, gradient: Tensor) -> Tensor:
        """φ' times the gradient."""
        return pulled_back(self._phi, gradient.contiguous(), self._read.contiguous(), self._value.contiguous())


class AverageAxis:
    """The mean over a pool's windows along one axis: A with rows of 1 / divisor, and Aᵀ for gradients."""

    def __init__(self, dimension: int, matrix: Tensor):
        """``matrix`` is A, ``(outputs, positions)``, and ``dimension`` the one that it acts on."""
        self._dimension, self._matrix = dimension, matrix

    def forward(self, features: Tensor) -> Tensor:
        """A applied along the axis."""
        return self._apply(self._matrix, features)

    def backward(self, gradient: Tensor) -> Tensor:
        """Aᵀ applied along the axis."""
        return self._apply(self._matrix.T, gradient)

    def _apply(self, matrix: Tensor, numbers: Tensor) -> Tensor:
        before, after = numbers.shape[: self._dimension], numbers.shape[self._dimension + 1 :]
        flat = numbers.reshape(before.numel(), numbers.shape[self._dimension], after.numel())
        return torch.matmul(matrix, flat).view(*before, len(matrix), *after)


class MaximumAxis:
    """The maximum over a pool's windows along one axis, whose gradient goes to where it was found."""

    def __init__(self, dimension: int, positions: Tensor, size: int):
        """``positions`` are those of each window, ``(outputs, taps)``, some of them several times in short ones."""
        self._dimension, self._positions, self._size = dimension, positions, size
        self._found = torch.empty(0)

    def forward(self, features: Tensor) -> Tensor:
        """The largest number of each window."""
        taps = features.index_select(self._dimension, self._positions.flatten())
        values, tap = taps.unflatten(self._dimension, self._positions.shape).max(self._dimension + 1)
        outputs = torch.arange(len(self._positions), device=tap.device)
        across = outputs.view(-1, *[1] * (tap.ndim - self._dimension - 1))
        self._found = self._positions[across, tap]
        return values

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient at the place of each maximum, added up where windows share one."""
        size = (*gradient.shape[: self._dimension], self._size, *gradient.shape[self._dimension + 1 :])
        return gradient.new_zeros(size).scatter_add_(self._dimension, self._found, gradient)


def between(layer: WeightLayer, frame: LayerWindows, device: torch.device, dtype: torch.dtype) -> list[Between]:
    """What follows the activation of ``layer``, in order; without pools nothing.

    Where pools stand before the activation, the layer itself is taken without it.
    """
    found: list[Between] = []
    read, size = frame.computed, frame.size
    for index, (pool, made) in enumerate(zip(layer.pools, frame.pooled, strict=True)):
        if index == layer.early and index:
            found.append(LateActivation(layer.phi))
        ends = zip(pool.axes, read.starts, read.sizes, made.starts, made.sizes, size, strict=True)
        for dimension, (axis, first, length, start, outputs, extent) in enumerate(ends, start=FIRST):
            windows = [(axis.reads(index, extent), index) for index in range(start, start + outputs)]
            if windows == [(range(at, at + 1), at) for at in range(first, first + length)]:
                continue
            found.append(_along(pool, axis, dimension, windows, first, length, extent, device, dtype))
        read, size = made, tuple(axis.output_size(extent) for axis, extent in zip(pool.axes, size, strict=True))
    if layer.early and layer.early == len(layer.pools):
        found.append(LateActivation(layer.phi))
    return found


def _along(
    pool: Pooling,
    axis: PoolAxis,
    dimension: int,
    windows: Sequence[tuple[range, int]],
    first: int,
    length: int,
    extent: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Between:
    """The pool along one axis, over ``length`` positions from ``first`` on of an axis of ``extent``."""
    if pool.function == "max":
        taps = max(len(read) for read, _ in windows)
        rows = [[read[min(tap, len(read) - 1)] - first for tap in range(taps)] for read, _ in windows]
        return MaximumAxis(dimension, torch.tensor(rows, device=device), length)
    matrix = torch.zeros(len(windows), length, dtype=dtype)
    for row, (read, index) in enumerate(windows):
        divisor = axis.divisor(index, extent, count_padding=pool.count_padding)
        matrix[row, [position - first for position in read]] = 1 / divisor
    return AverageAxis(dimension, matrix.to(device))
