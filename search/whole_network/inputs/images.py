"""The batch of inputs at which whole networks are measured: images of a data set, or stationary Gaussian fields."""

from __future__ import annotations

import math

import numpy as np

from collegium.counted import counted
from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.networks.network import Network
from collegium.search.whole_network.spec import NetworkKernelSpec

#: Extent of images where a specification gives none and the network takes any.
LARGEST_DEFAULT_PIXELS = 48
#: Positions up to which a field is drawn by the exact root of its covariance; others are cut out of a torus.
MOST_POSITIONS = 1024
#: Largest extent of the torus, and the share of its spectrum that may be negative, and is then left out.
LARGEST_TORUS, NEGATIVE = 1024, 1e-3


def sample_shape(network: Network, spec: NetworkKernelSpec, images: np.ndarray | None) -> tuple[int, int, int]:
    """Shape of one input, ``(channels, height, width)``. Raises ``InvalidSpec`` for ``pixels`` it cannot have."""
    channels, height, width = network.sample_shape()
    if not network.any_extent:
        if spec.pixels not in (None, height if height == width else None):
            raise InvalidSpec(("network", "pixels"), f"this network takes {height}×{width} inputs alone; leave it out")
        return channels, height, width
    if spec.pixels is not None:
        return channels, spec.pixels, spec.pixels
    own = height if images is None else min(images.shape[-2:])
    pixels = min(own, LARGEST_DEFAULT_PIXELS)
    return channels, pixels, pixels


def gaussian_fields(count: int, shape: tuple[int, int, int], correlation: float, seed: int) -> np.ndarray:
    """Stationary fields of covariance c^distance in each channel, ``(count, channels, height, width)``, float32.

    Channels are independent, distances Euclidean, and each image is scaled to a mean square of 1.

    >>> gaussian_fields(2, (3, 8, 8), 0.95, seed=0).shape
    (2, 3, 8, 8)
    """
    channels, height, width = shape
    generator = np.random.default_rng([seed, count, *shape])
    if height == width == 1 or correlation == 0:
        fields = generator.standard_normal((count, *shape))
    elif correlation == 1:
        fields = np.broadcast_to(generator.standard_normal((count, channels, 1, 1)), (count, *shape))
    elif height * width <= MOST_POSITIONS:
        root = np.linalg.cholesky(_covariance(correlation, height, width))
        fields = (generator.standard_normal((count, channels, height * width)) @ root.T).reshape(count, *shape)
    else:
        root = _torus_root(correlation, max(height, width))
        fields = np.stack([_on_torus(root, generator)[:height, :width] for _ in range(count * channels)])
        fields = fields.reshape(count, *shape)
    size = np.sqrt(np.mean(np.square(fields), axis=(1, 2, 3), keepdims=True))
    return (fields / size).astype(np.float32)


def _covariance(correlation: float, height: int, width: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(height * width), width)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return correlation**distance + 1e-12 * np.eye(height * width)


def _torus_root(correlation: float, extent: int) -> np.ndarray:
    """Square roots of the spectrum of a torus, the smallest whose covariance is (nearly) positive semi-definite."""
    size = 2 * extent
    while True:
        offset = np.minimum(np.arange(size), size - np.arange(size))
        spectrum = np.fft.fft2(correlation ** np.hypot(offset[:, None], offset)).real
        if -spectrum[spectrum < 0].sum() <= NEGATIVE * spectrum.sum() or 2 * size > LARGEST_TORUS:
            return np.sqrt(np.maximum(spectrum, 0))
        size *= 2


def _on_torus(root: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noise = generator.standard_normal((2, *root.shape))
    return np.fft.fft2(root * (noise[0] + 1j * noise[1]), norm="ortho").real


def images_of_data(count: int, network: Network, shape: tuple[int, int, int], images: np.ndarray) -> np.ndarray:
    """``count`` of a data set's images, spread evenly over it, ``(count, *shape)``, float32.

    ``images`` has shape ``(images, channels, height, width)`` or ``(images, height, width)``. Channels are centred over
    the data and divided by one common deviation; grey images are repeated over the channels. Larger images are averaged
    over equal areas. Raises ``InvalidSpec`` where the network does not take them, or they are too few or too small.
    """
    data = np.asarray(images)
    data = data[:, None] if data.ndim == 3 else data
    if len(data) < count:
        raise InvalidSpec(("network", "images"), f"the data has {counted(len(data), 'image')}; give at most as many")
    try:
        repeated = network.repeated_channels(tuple(data.shape[1:]))
    except SampleMismatch as mismatch:
        raise InvalidSpec(("inputs", "data"), f"the data {mismatch.message}: {mismatch.remedy}") from None
    chosen = data[np.linspace(0, len(data) - 1, count).astype(int)].astype(np.float64)
    chosen = chosen - data.mean(axis=(0, 2, 3), keepdims=True)
    if network.any_extent:
        chosen = _averaged(_averaged(chosen, shape[1], axis=2), shape[2], axis=3)
    deviation = math.sqrt(np.mean(np.square(chosen)))
    if not deviation > 0:
        raise InvalidSpec(("inputs", "data"), "the data's images are constant; give others")
    return np.repeat(chosen / deviation, repeated or 1, axis=1).astype(np.float32).reshape(count, *shape)


def _averaged(images: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Images of ``size`` along an axis, each value the mean over an equal part of the original extent."""
    own = images.shape[axis]
    if own < size:
        raise InvalidSpec(("network", "pixels"), f"the data's images have {own} pixels; give at most as many")
    if own == size:
        return images
    ends = np.linspace(0, own, size + 1)
    low, high = ends[:-1, None], ends[1:, None]
    cell = np.arange(own)
    weights = np.clip(np.minimum(cell + 1, high) - np.maximum(cell, low), 0, None) * size / own
    return np.moveaxis(np.tensordot(weights, images, axes=(1, axis)), 0, axis)
