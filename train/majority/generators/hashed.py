"""Independent numbers as arithmetic on the index of the element, which a compiler fuses with what uses them.

A word of 32 bits belongs to each pair of numbers of element i: a hash of i with two multiplications, between which the
second half of a key of 64 bits is mixed in, the first half having been added to a multiple of i. The key is a hash of
(seed, step, kernel, pair). The two halves of a word are two numbers of 16 bits, U = (half + ½) / 2^16, as in
``collegium.train.majority.generators.uniforms``; run operator by operator this takes three times as long as that.

Everything here is elementary operators alone, each rounded by itself, so that compiled and plain runs give the same
bits.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from collegium.train.majority.generators.uniforms import CENTRE, SCALE, Draw, comparisons, signed32

_STEP = signed32(0x9E3779B9)  # 2^32 over the golden ratio
_FIRST, _SECOND = 0x21F0AAAD, 0x735A2D97  # multipliers of low bias, by exhaustive measurement (C. Wellons, 2018)


def keys(*draws: Draw, count: int) -> Tensor:
    """Two words for each pair of ``count`` numbers of an element, in each of ``draws``: int32, ``(draws, words)``."""
    words = [draw.words(0, (count + 1) // 2) for draw in draws]
    halves = [[signed32(word >> shift) for word in row for shift in (0, 32)] for row in words]
    return torch.tensor(halves, dtype=torch.int32, device="cpu")


def points(element: Tensor, key: Tensor, count: int, dtype: torch.dtype) -> list[Tensor]:
    """``count`` numbers in (0, 1) for each index in ``element``, int32, descending; ``key`` is a row of ``keys``."""
    halves: list[Tensor] = []
    for pair in range((count + 1) // 2):
        word = _word(element, key[2 * pair], key[2 * pair + 1])
        halves += [(word << 16) >> 16, word >> 16]
    rows = [half.to(dtype) * SCALE + CENTRE for half in halves[:count]]
    for upper, lower in comparisons(count):
        rows[upper], rows[lower] = torch.maximum(rows[upper], rows[lower]), torch.minimum(rows[upper], rows[lower])
    return rows


def interpolate(copies: Sequence[Tensor], levels: Sequence[Tensor]) -> Tensor:
    """w_1 + Σ_k v_k ∘ (w_{k+1} − w_k)."""
    mixed = copies[0]
    for copy, following, level in zip(copies[:-1], copies[1:], levels, strict=True):
        mixed = mixed + level * (following - copy)
    return mixed


def divide(gradient: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """(v_{k−1} − v_k) ∘ g for each k."""
    if not levels:
        return [gradient]
    pieces = [1 - levels[0], *(level - following for level, following in pairwise(levels)), levels[-1]]
    return [piece * gradient for piece in pieces]


def _word(element: Tensor, first: Tensor, second: Tensor) -> Tensor:
    word = element * _STEP + first
    word = (word ^ _shifted(word, 16)) * _FIRST
    word = (word ^ _shifted(word, 15) ^ second) * _SECOND
    return word ^ _shifted(word, 15)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (word >> bits) & ((1 << 32 - bits) - 1)
