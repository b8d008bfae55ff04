"""Draws of the kernel entry of one attention head, from the law of its queries, keys and values.

With tokens X (T × E), a head of width d in the NTK parameterization (all weights standard normal) has

    q = W_Q x_t / √E,   k_s = W_K x_s / √E,   v_s = W_V x_s / √E,   a = softmax_s(q·k_s / √d),   F = w·Σ_s a_s v_s / √d,

one output unit at the token t. Queries, keys and values are independent Gaussians over the tokens with the covariance
G = X Xᵀ / E, so the weights need not be drawn, and of the inputs G alone matters. With f_s = w·v_s / √d (so that
F = Σ_s a_s f_s) and c_s = a_s (f_s − F) / √d the derivatives by all weights have the squared norms

    W_O: |Σ_s a_s v_s|² / d,   W_V: |w|² / d · aᵀ G a,   W_Q: |Σ_s c_s k_s|² · G_tt,   W_K: |q|² · cᵀ G c.

Nor need keys and values be drawn: a and c depend on their components κ_s = k_s·q / |q| and η_s = v_s·w / |w| alone,
which are N(0, G) over the tokens, and the components across are independent of these. So with chi-squared draws of
d − 1 degrees

    |Σ_s a_s v_s|² = (Σ_s a_s η_s)² + aᵀ G a · χ²,   |Σ_s c_s k_s|² = (Σ_s c_s κ_s)² + cᵀ G c · χ'²,

and |q|² / G_tt and |w|² are chi-squared with d degrees. A draw costs the same at every width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from collegium.search.sampling.dense import chi_squared
from collegium.search.sampling.normals import covariance_root

#: Numbers of one batch's components along the query.
BATCH_NUMBERS = 1 << 19


class HeadSampler:
    """Independent draws of K(x, x) of one head of ``width`` d over tokens of Gram matrix ``gram`` (T × T).

    The entry is that of one output unit at the token ``token``. Raises ``ValueError`` where ``gram`` is not square,
    symmetric and positive semidefinite.
    """

    def __init__(self, width: int, gram: np.ndarray, token: int = 0, device: str = "cpu") -> None:
        self._width, self._token = width, token
        self._root = torch.tensor(covariance_root(gram), device=device)
        self._gram = torch.tensor(np.asarray(gram, float), device=device)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """``count`` samples, shape ``(count,)``, float64."""
        return torch.cat(list(self.batches(count, generator)))

    def batches(self, count: int, generator: Generator) -> Iterator[Tensor]:
        """``count`` samples in parts, one after another."""
        size = max(1, BATCH_NUMBERS // len(self._gram))
        for start in range(0, count, size):
            yield self._batch(min(size, count - start), generator)

    def _batch(self, count: int, generator: Generator) -> Tensor:
        d, gram, t = self._width, self._gram, self._token

        def over_tokens() -> Tensor:
            """N(0, G), ``(count, T)``, in float64: in a softmax differences cancel."""
            shape = (count, self._root.shape[1])
            drawn = torch.randn(shape, generator=generator, dtype=self._root.dtype, device=self._root.device)
            return drawn @ self._root.T

        def squared(degrees: int) -> Tensor:
            return chi_squared(torch.full((count,), float(degrees), dtype=gram.dtype, device=gram.device), generator)

        along_query, along_readout = over_tokens(), over_tokens()
        query, readout = gram[t, t] * squared(d), squared(d)  # squared norms
        weights = torch.softmax(along_query * (query / d).sqrt().unsqueeze(1), dim=1)
        each = along_readout * (readout / d).sqrt().unsqueeze(1)
        pull = weights * (each - (weights * each).sum(1, keepdim=True)) / math.sqrt(d)
        spread, pulled = ((w @ gram * w).sum(1) for w in (weights, pull))
        output = ((weights * along_readout).sum(1).square() + spread * squared(d - 1)) / d
        summed = (pull * along_query).sum(1).square() + pulled * squared(d - 1)
        return output + readout / d * spread + query * pulled + summed * gram[t, t]
