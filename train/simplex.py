"""Random points of the simplex, one per weight, that are recomputed instead of remembered.

Claim: for every weight element independently, p = (p_1 … p_e) has the flat Dirichlet law of normalised exponentials
(Mazzawi et al. 2024, Eq. 2.2), without a logarithm: it is the e spacings that e − 1 uniform numbers cut out of [0, 1].

The uniforms are a pure function of (seed, step, kernel, element), so the backward pass draws again what the forward
pass drew, on every rank and every device. For element i of chunk c, cut j is the 16-bit word

    word_j(i) = TABLE[offset + i mod CHUNK] + shift    mod 2^16,

where TABLE holds well mixed words of a counter, and ``offset`` and ``shift`` come from hashing (seed, step, kernel, c,
j). Within a step neighbours are as independent as the table's words; from step to step every element sees other words,
rotated by another angle. One integer operation a word keeps the draw within memory speed without a compiler.

A word stands for the midpoint b = (word + ½) / 2^16 + ½ of its interval, so that b_1 ≤ … ≤ b_{e−1}, the spacings and
their sum 1 are exact in float32. By Abel's summation

    Σ_k p_k ∘ w_k = w_e + Σ_j b_j ∘ (w_j − w_{j+1}),        p_k ∘ g = b_k ∘ g − b_{k−1} ∘ g,

so that neither p nor any tensor of its size is ever formed: work proceeds in chunks that stay in the cache.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import torch
from torch import Tensor

from train import elementwise

__all__ = ["CHUNK", "Draw", "comparators", "mix", "mix_chunk", "probabilities", "spread", "spread_chunk", "table"]

CHUNK = 1 << 17  # elements: large enough to hide an operator's cost, small enough for a core's cache
UNIT = 2.0**-16  # width of a word's interval
CENTRE = 0.5 + UNIT / 2  # where the word 0 lies in [0, 1]
_ALIGNMENT = 16  # windows into the table start at multiples of this many words
_MASK64 = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment
_STREAM = 0xD1342543DE82EF95  # between the chunks of one draw
_scratch = threading.local()


@dataclass(frozen=True)
class Draw:
    """One draw of p for a whole kernel: which random numbers, not the numbers themselves.

    ``seed`` and ``step`` are any integers (used modulo 2^64), ``kernel`` numbers the tensor within its model.
    """

    seed: int
    step: int
    kernel: int

    @cached_property
    def _state(self) -> int:
        state = 0
        for word in (self.seed, self.step, self.kernel):
            state = _hashed(state ^ (word & _MASK64))
        return state

    def cuts(self, expansion: int, chunk: int) -> list[tuple[int, int]]:
        """(offset, shift) of each of the e − 1 cuts of the elements of chunk number ``chunk``."""
        state = (self._state + chunk * _STREAM) & _MASK64
        keys = []
        for _ in range(expansion - 1):
            state = (state + _GAMMA) & _MASK64
            z = _hashed(state)
            keys.append(((z >> 32) % (CHUNK // _ALIGNMENT) * _ALIGNMENT, (z & 0xFFFF) - 0x8000))
        return keys


def probabilities(draw: Draw, expansion: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return p itself, shape ``(expansion, *shape)``, float32: for tests and for looking at.

    Entries are in [0, 1] and sum to one over the first axis, exactly.
    """
    return spread(torch.ones(tuple(shape), device=device), draw, expansion)


def mix(copies: Tensor, draw: Draw, out: Tensor | None = None) -> Tensor:
    """Return Σ_k p_k ∘ copies_k (Eq. 2.1), shape ``copies.shape[1:]``, without forming p.

    ``copies`` has shape ``(expansion, …)`` and any floating type; half types are mixed in float32. ``out``, contiguous
    and of the result's shape and type, receives the result. Not differentiable: see ``train.kernel`` for that.
    """
    if out is None:
        out = torch.empty(copies.shape[1:], dtype=copies.dtype, device=copies.device)
    expansion = copies.shape[0]
    flat = copies.detach().reshape(expansion, -1)
    if elementwise.enabled(flat.device):
        return elementwise.mix(flat, table(flat.device), _keys(draw, flat), out)
    for index, (block, target) in enumerate(
        zip(flat.split(CHUNK, dim=1), out.detach().view(-1).split(CHUNK), strict=True)
    ):
        mix_chunk(block.unbind(), draw.cuts(expansion, index), target)
    return out


def spread(gradient: Tensor, draw: Draw, expansion: int, out: Tensor | None = None) -> Tensor:
    """Return (p_1 ∘ g, …, p_e ∘ g), shape ``(expansion, *gradient.shape)``: the adjoint of ``mix``.

    It is the gradient of each copy when ``gradient`` is that of the mixed weight; over the copies it sums to
    ``gradient``.
    """
    if out is None:
        out = torch.empty((expansion, *gradient.shape), dtype=gradient.dtype, device=gradient.device)
    flat = gradient.detach().reshape(-1)
    rows = out.detach().view(expansion, -1)
    if elementwise.enabled(flat.device):
        elementwise.spread(flat, table(flat.device), _keys(draw, rows), rows)
        return out
    for index, (part, block) in enumerate(zip(flat.split(CHUNK), rows.split(CHUNK, dim=1), strict=True)):
        spread_chunk(part, draw.cuts(expansion, index), block.unbind())
    return out


def mix_chunk(copies: Sequence[Tensor], cuts: Sequence[tuple[int, int]], out: Tensor) -> None:
    """Write Σ_k p_k ∘ copies_k of one chunk into ``out``; all tensors flat and of equal length."""
    if out.dtype.itemsize < 4:
        wide = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        mix_chunk([copy.float() for copy in copies], cuts, wide)
        out.copy_(wide)
        return
    bounds = _sorted_cuts(cuts, out.shape[0], out.device)
    bound, difference = _workspace(out.dtype, 2, out.shape[0], out.device)
    torch.lerp(copies[-1], copies[0], CENTRE, out=out)
    for word, left, right in zip(bounds, copies[:-1], copies[1:], strict=True):
        bound.copy_(word)
        torch.sub(left, right, out=difference)
        out.addcmul_(bound, difference, value=UNIT)


def spread_chunk(gradient: Tensor, cuts: Sequence[tuple[int, int]], out: Sequence[Tensor]) -> None:
    """Write p_k ∘ gradient of one chunk into ``out[k]``; all tensors flat and of equal length."""
    if gradient.dtype.itemsize < 4:
        wide = [torch.empty(gradient.shape, dtype=torch.float32, device=gradient.device) for _ in out]
        spread_chunk(gradient.float(), cuts, wide)
        for narrow, row in zip(out, wide, strict=True):
            narrow.copy_(row)
        return
    if not cuts:
        out[0].copy_(gradient)
        return
    bounds = _sorted_cuts(cuts, gradient.shape[0], gradient.device)
    (bound,) = _workspace(gradient.dtype, 1, gradient.shape[0], gradient.device)
    # Row k first receives everything left of its cut, b_k ∘ g; then what lies left of the cut before is taken away.
    torch.mul(gradient, CENTRE, out=out[-1])
    for word, row in zip(bounds, out[:-1], strict=True):
        bound.copy_(word)
        torch.addcmul(out[-1], bound, gradient, value=UNIT, out=row)
    torch.sub(gradient, out[-2], out=out[-1])
    for k in range(len(out) - 2, 0, -1):
        out[k].sub_(out[k - 1])


def _sorted_cuts(cuts: Sequence[tuple[int, int]], size: int, device: torch.device) -> list[Tensor]:
    """The e − 1 words of each element in rising order."""
    source = table(device)
    *words, spare = _workspace(torch.int16, len(cuts) + 1, size, device)
    for word, (offset, shift) in zip(words, cuts, strict=True):
        torch.add(source[offset : offset + size], shift, out=word)
    for low, high in comparators(len(words)):
        torch.minimum(words[low], words[high], out=spare)
        torch.maximum(words[low], words[high], out=words[high])
        words[low], spare = spare, words[low]
    return words


@lru_cache(maxsize=64)
def comparators(count: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd–even merge sort of ``count`` values, as (low, high) positions to compare and exchange in order."""
    pairs = []
    width = 1
    while width < count:
        gap = width
        while gap >= 1:
            for start in range(gap % width, count - gap, 2 * gap):
                for i in range(start, min(start + gap, count - gap)):
                    if i // (2 * width) == (i + gap) // (2 * width):
                        pairs.append((i, i + gap))
            gap //= 2
        width *= 2
    return tuple(pairs)


@cache
def table(device: torch.device) -> Tensor:
    """2 · CHUNK well mixed 16-bit words: the top quarter of the splitmix64 hash of a counter."""
    z = torch.arange(1, 2 * CHUNK + 1, dtype=torch.int64) * _signed(_GAMMA)
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))) * _signed(factor)  # the mask makes the shift logical
    return (z >> 48).to(torch.int16).to(device)


def _workspace(dtype: torch.dtype, count: int, size: int, device: torch.device) -> list[Tensor]:
    """``count`` flat work tensors, reused by this thread: fresh memory would cost as much as the work."""
    key = (dtype, count, size, device)
    views = _scratch.__dict__.get(key)
    if views is None:
        pool = _scratch.__dict__.setdefault((dtype, device), [])
        pool.extend(torch.empty(CHUNK, dtype=dtype, device=device) for _ in range(count - len(pool)))
        views = _scratch.__dict__[key] = [buffer[:size] for buffer in pool[:count]]
    return views


def _keys(draw: Draw, rows: Tensor) -> Tensor:
    """All chunks' (offset, shift), shape ``(chunks, expansion − 1, 2)``, int32, on the device of ``rows``."""
    expansion, elements = rows.shape
    keys = [draw.cuts(expansion, chunk) for chunk in range(-(-elements // CHUNK))]
    return torch.tensor(keys, dtype=torch.int32).view(len(keys), expansion - 1, 2).to(rows.device, non_blocking=True)


def _hashed(state: int) -> int:
    """The finalizer of splitmix64."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return state ^ (state >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
