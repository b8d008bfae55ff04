"""What stands before a residual network's first stage, as the Gram matrix of its outputs on patches of images.

Stems are infinitely wide and at random initialization. A convolution and its rectifier then have a closed form, the
arc-cosine kernel of the patches. The ImageNet stem also has a max-pool, which has none: there the Gram matrix is the
mean over random filters, fresh ones for each batch of patches, always the same in each run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator

from collegium.search.kernel.relu import relu_relu
from collegium.search.networks.network import CONV_STRIDE, POOL, POOL_STRIDE, Stem

#: Random filters for each batch of patches; over all batches there are thousands.
FILTERS = 64
#: Numbers of a batch that are held at once.
BATCH_NUMBERS = 8_000_000


def gram_sum(patches: Iterator[np.ndarray], stem: Stem | None) -> np.ndarray:
    """Sum of the Gram matrices of all ``patches``, each batch ``(count, channels, height, width)``, behind ``stem``."""
    random = np.random.default_rng(0)
    return sum((_gram(batch, stem, random) for batch in patches), start=np.zeros(()))


def batch_size(positions: int, channels: int, stem: Stem | None) -> int:
    """Patches of ``positions`` outputs to take at once."""
    if stem is None or not stem.pooled:
        return max(1, BATCH_NUMBERS // (8 * positions**2))
    side = POOL_STRIDE * (positions**0.5 - 1) + POOL
    return max(1, int(BATCH_NUMBERS / (side**2 * (channels * stem.kernel**2 + FILTERS))))


def _gram(patches: np.ndarray, stem: Stem | None, random: Generator) -> np.ndarray:
    kernel, stride = (1, 1) if stem is None else (stem.kernel, CONV_STRIDE if stem.pooled else 1)
    taps = sliding_window_view(patches, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    count, _, height, width = taps.shape[:4]
    features = taps.transpose(0, 2, 3, 1, 4, 5).reshape(count, height * width, -1)
    if stem is not None and stem.pooled:
        return _pooled_gram(features, height, width, random)
    gram = features @ features.transpose(0, 2, 1)
    if stem is not None:
        deviation = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
        product = deviation[:, :, None] * deviation[:, None, :]
        gram = product * relu_relu(gram / np.where(product > 0, product, 1.0))
    return gram.sum(axis=0, dtype=float)


def _pooled_gram(features: np.ndarray, height: int, width: int, random: Generator) -> np.ndarray:
    filters = random.standard_normal((features.shape[2], FILTERS), dtype=np.float32)
    maps = np.maximum(features @ filters, 0).reshape(len(features), height, width, FILTERS)
    for axis in (1, 2):  # the maximum of a square is that of its rows' maxima
        maps = sliding_window_view(maps, POOL, axis=axis).max(-1)
    maps = maps[:, ::POOL_STRIDE, ::POOL_STRIDE].reshape(len(features), -1, FILTERS)
    return (maps @ maps.transpose(0, 2, 1)).sum(axis=0, dtype=float) / FILTERS
