"""Standard normal numbers, which are most of what drawing weights costs, and factors of covariance matrices."""

from __future__ import annotations

from functools import lru_cache
from math import isqrt, sqrt

import numpy as np
import torch
from torch import Generator, Tensor

CHUNK = 1 << 15
"""Numbers made at once: their bits and themselves stay in a core's second-level cache."""

FEWEST = 1 << 12
"""Below this many numbers torch's own generator is as fast."""


class NormalStream:
    """Fills tensors with independent standard normal numbers, all of which follow from ``generator``.

    On a CPU, in single precision, torch spends two thirds of its time on uniform bits, by a scalar Mersenne twister.
    Here they come from SFC64 and go through the inverse distribution function, z = √2 erf⁻¹(u) with u on 2³² equal
    steps within ±(1 − 2⁻²⁴), which takes a third less. It ends at |z| = 5.42, and that takes 8·10⁻⁷ off E z² and
    1.3·10⁻⁵ off E z⁴, in which every weight enters E K².
    """

    def __init__(self, generator: Generator):
        self._generator = generator
        seed = torch.randint(2**62, (2,), generator=generator, device=generator.device)
        self._bits = np.random.SFC64(seed.tolist())

    def fill(self, out: Tensor) -> Tensor:
        """Overwrites the contiguous tensor ``out`` and returns it."""
        if out.device.type != "cpu" or out.dtype != torch.float32 or out.numel() < FEWEST:
            return out.normal_(generator=self._generator)
        for part in out.view(-1).split(CHUNK):
            words = self._bits.random_raw(-(-part.numel() // 2)).view(np.int32)
            part.copy_(torch.from_numpy(words)[: part.numel()])
            part.mul_((1 - 2**-24) * 2.0**-31).erfinv_().mul_(sqrt(2))
        return out


TINY = 1e-30
"""A variance that counts as zero, yet has a square root and an inverse in float32."""


def joint_gram(gram: np.ndarray, pair: float | None) -> np.ndarray:
    """The Gram matrix of both inputs' positions, [[S, cS], [cS, S]] at cosine c; S itself without a second input."""
    gram = np.asarray(gram, dtype=np.float64)
    return gram if pair is None else np.kron(np.array([[1.0, pair], [pair, 1.0]]), gram)


def covariance_root(covariance: np.ndarray, tolerance: float = 1e-12) -> np.ndarray:
    """R with R Rᵀ = ``covariance`` and as many columns as its numerical rank, ``(P, rank)``.

    Eigenvalues below ``tolerance`` of the largest are left out. Raises ``ValueError`` where the matrix is not square
    and symmetric, or has an eigenvalue below −1e-6 of the largest.
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"a covariance matrix is square, got shape {covariance.shape}")
    scale = float(np.abs(covariance).max())
    if not np.isfinite(scale) or np.abs(covariance - covariance.T).max() > 1e-6 * scale:
        raise ValueError("a covariance matrix is finite and symmetric")
    return _root((covariance + covariance.T).tobytes(), tolerance)


@lru_cache(maxsize=2)  # shards of one point, and all widths of one chain, share their inputs
def _root(twice: bytes, tolerance: float) -> np.ndarray:
    flat = np.frombuffer(twice) / 2
    size = isqrt(len(flat))
    values, vectors = np.linalg.eigh(flat.reshape(size, size))
    if values[0] < -1e-6 * max(values[-1], 0.0):
        raise ValueError(f"the matrix is not positive semidefinite: eigenvalues {values[0]:.3g} … {values[-1]:.3g}")
    kept = values > tolerance * values[-1]
    root = vectors[:, kept] * np.sqrt(values[kept])
    root.flags.writeable = False
    return root


def cholesky_factor(gram: Tensor) -> Tensor:
    """Lower-triangular L with L Lᵀ ≈ ``gram``, ``(…, P, P)``, singular or zero Grams included.

    The diagonal is raised by a few units of its own rounding error, which is the exact Gram of vectors with a little
    independent noise added; a zero vector stays zero to rounding. The noise grows until the factor exists.
    """
    if gram.shape[-1] == 1:
        return (gram + TINY).sqrt_()
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    noise = 8 * torch.finfo(gram.dtype).eps
    while True:
        raised = gram.clone()
        raised.diagonal(dim1=-2, dim2=-1).add_(diagonal * noise + TINY)
        factor, info = torch.linalg.cholesky_ex(raised)
        if not info.any():
            return factor
        if noise > 1:
            raise ValueError("the Gram matrices are not finite")
        noise *= 16
