"""Draws of the kernel entry of one attention head, from the law of its queries, keys and values.

With tokens X (T × E), a head of width d in the NTK parameterization (all weights standard normal) has

    q = W_Q x_t / √E,   k_s = W_K x_s / √E,   v_s = W_V x_s / √E,   a = softmax_s(q·k_s / √d),   F = w·Σ_s a_s v_s / √d,

one output unit at the token t. Queries, keys and values are independent Gaussians over the tokens with the covariance
G = X Xᵀ / E, so the weights need not be drawn, and of the inputs G alone matters. With f_s = w·v_s / √d (so that
F = Σ_s a_s f_s) and c_s = a_s (f_s − F) / √d the derivatives by all weights have the squared norms

    W_O: |Σ_s a_s v_s|² / d,   W_V: |w|² / d · aᵀ G a,   W_Q: |Σ_s c_s k_s|² · G_tt,   W_K: |q|² · cᵀ G c.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from collegium.search.sampling.normals import covariance_root

#: Numbers of one batch's keys and values.
BATCH_NUMBERS = 1 << 21


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
        size = max(1, BATCH_NUMBERS // (self._width * len(self._gram)))
        parts = [min(size, count - start) for start in range(0, count, size)]
        return torch.cat([self._batch(part, generator) for part in parts])

    def _batch(self, count: int, generator: Generator) -> Tensor:
        def normal(*size: int) -> Tensor:
            return torch.randn(
                count, *size, generator=generator, dtype=self._root.dtype, device=self._root.device
            )  # float64: softmax differences cancel

        d, gram, t = self._width, self._gram, self._token
        keys, values = (self._root @ normal(self._root.shape[1], d) for _ in range(2))  # (count, T, d)
        query, readout = gram[t, t].sqrt() * normal(d), normal(d)
        weights = torch.softmax((keys @ query.unsqueeze(2)).squeeze(2) / math.sqrt(d), dim=1)  # (count, T)
        each = (values @ readout.unsqueeze(2)).squeeze(2) / math.sqrt(d)
        pull = weights * (each - (weights * each).sum(1, keepdim=True)) / math.sqrt(d)
        output = (weights.unsqueeze(1) @ values).square().sum((1, 2)) / d
        value = readout.square().sum(1) / d * ((weights @ gram) * weights).sum(1)
        key = query.square().sum(1) * ((pull @ gram) * pull).sum(1)
        return output + value + key + (pull.unsqueeze(1) @ keys).square().sum((1, 2)) * gram[t, t]
