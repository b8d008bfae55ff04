"""Random points of the simplex, one per weight, that are recomputed instead of stored.

Claim: for every weight element p = (p_1 … p_e) has the flat Dirichlet law, that of normalised exponentials (Mazzawi et
al. 2024, Eq. 2.2), as a function of (seed, step, kernel, element) alone. So the backward pass draws again what the
forward pass drew, on every rank and every device, and no p waits in between.

A stick of length 1 is broken e − 1 times: of what is left after k − 1 pieces, piece k leaves the fraction

    q_k = U^{1/(e−k)},  U uniform on [0, 1]:      p_k = q_1 ⋯ q_{k−1} (1 − q_k),   p_e = q_1 ⋯ q_{e−1},

which is how the spacings of e − 1 sorted uniforms fall. The mixture and its adjoint are then nested interpolations,

    Σ_k p_k ∘ w_k = lerp(w_1, lerp(w_2, … lerp(w_{e−1}, w_e, q_{e−1}) …, q_2), q_1),

so that neither p nor any tensor of its size is formed: work proceeds in chunks that stay in the cache.

The uniforms are a counter's hash, looked up. For each power j a circular table holds U^{1/j} for the PERIOD midpoints
of equal intervals of [0, 1], each once, in the order of a hashed counter; the elements of a chunk read it from an
offset that hashes (seed, step, kernel, chunk, k). Every offset is as likely, so every element takes each value of the
table with the same probability at every step, independently of other steps up to the hash; elements of one chunk are as
independent as entries of the table. A draw costs e − 1 reads a weight, less than any arithmetic would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from collegium.train.majority import elementwise
from collegium.train.majority.elementwise import CHUNK

__all__ = ["CHUNK", "Draw", "mix", "mix_chunk", "probabilities", "spread", "spread_chunk"]

PERIOD = 1 << 17  # values in a table; at least CHUNK
_STREAM = 0xD1342543DE82EF95  # between the chunks of one draw
_MASK64 = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment


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
            state = _hashed((state ^ word & _MASK64) + _GAMMA & _MASK64)
        return state

    def offsets(self, expansion: int, chunk: int) -> list[int]:
        """Where chunk number ``chunk`` starts to read in the table of each of the e − 1 breaks."""
        state, found = self._state + chunk * _STREAM, []
        while len(found) < expansion - 1:
            state = state + _GAMMA & _MASK64
            word = _hashed(state)
            found += [word % PERIOD, (word >> 20) % PERIOD, (word >> 40) % PERIOD]  # of 17 bits each
        return found[: expansion - 1]


def probabilities(draw: Draw, expansion: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return p itself, shape ``(expansion, *shape)``, float32: for tests and inspection.

    Entries are in [0, 1] and sum to one over the first axis, up to rounding.
    """
    return spread(torch.ones(tuple(shape), device=device), draw, expansion)


def mix(copies: Tensor, draw: Draw, out: Tensor | None = None) -> Tensor:
    """Return Σ_k p_k ∘ copies_k (Eq. 2.1), shape ``copies.shape[1:]``, without forming p.

    ``copies`` has shape ``(expansion, …)`` and any floating type; half types are mixed in float32. ``out``,
    contiguous and of the result's shape and type, receives the result. Not differentiable: see
    ``collegium.train.majority.kernel`` for that.
    """
    if out is None:
        out = torch.empty(copies.shape[1:], dtype=copies.dtype, device=copies.device)
    expansion = copies.shape[0]
    flat, target = copies.detach().reshape(expansion, -1), out.detach().view(-1)
    if elementwise.enabled(flat.device):
        elementwise.mix(flat, tables(expansion, flat.dtype, flat.device), _offsets(draw, flat), target)
        return out
    for index, (block, part) in enumerate(zip(flat.split(CHUNK, dim=1), target.split(CHUNK), strict=True)):
        mix_chunk(block.unbind(), draw.offsets(expansion, index), part)
    return out


def spread(gradient: Tensor, draw: Draw, expansion: int, out: Tensor | None = None) -> Tensor:
    """Return (p_1 ∘ g, …, p_e ∘ g), shape ``(expansion, *gradient.shape)``: the adjoint of ``mix``.

    It is the gradient of each copy when ``gradient`` is that of the mixed weight; over the copies it sums to
    ``gradient``.
    """
    if out is None:
        out = torch.empty((expansion, *gradient.shape), dtype=gradient.dtype, device=gradient.device)
    flat, rows = gradient.detach().reshape(-1), out.detach().view(expansion, -1)
    if elementwise.enabled(flat.device):
        elementwise.spread(flat, tables(expansion, flat.dtype, flat.device), _offsets(draw, rows), rows)
        return out
    for index, (part, block) in enumerate(zip(flat.split(CHUNK), rows.split(CHUNK, dim=1), strict=True)):
        spread_chunk(part, draw.offsets(expansion, index), block.unbind())
    return out


def mix_chunk(copies: Sequence[Tensor], offsets: Sequence[int], out: Tensor) -> None:
    """Write Σ_k p_k ∘ copies_k of one chunk into ``out``; all tensors flat and of equal length."""
    if out.dtype.itemsize < 4:
        wide = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        mix_chunk([copy.float() for copy in copies], offsets, wide)
        out.copy_(wide)
        return
    if not offsets:
        out.copy_(copies[0])
    rest = copies[-1]
    for copy, q in zip(copies[-2::-1], _fractions(offsets, out)[::-1], strict=True):
        rest = torch.lerp(copy, rest, q, out=out)


def spread_chunk(gradient: Tensor, offsets: Sequence[int], out: Sequence[Tensor]) -> None:
    """Write p_k ∘ gradient of one chunk into ``out[k]``; all tensors flat and of equal length."""
    if gradient.dtype.itemsize < 4:
        wide = [torch.empty(gradient.shape, dtype=torch.float32, device=gradient.device) for _ in out]
        spread_chunk(gradient.float(), offsets, wide)
        for narrow, row in zip(out, wide, strict=True):
            narrow.copy_(row)
        return
    if not offsets:
        out[0].copy_(gradient)
    rest = gradient  # what is left of the stick, times g; from the second row on it is stored in the row of its piece
    for row, following, q in zip(out[:-1], out[1:], _fractions(offsets, gradient), strict=True):
        torch.mul(rest, q, out=following)
        torch.sub(rest, following, out=row)
        rest = following


def _fractions(offsets: Sequence[int], like: Tensor) -> list[Tensor]:
    """q_1 … q_{e−1} of one chunk: views of the tables."""
    found = tables(len(offsets) + 1, like.dtype, like.device)
    return [table.narrow(0, offset, like.shape[0]) for table, offset in zip(found, offsets, strict=True)]


def _offsets(draw: Draw, rows: Tensor) -> Tensor:
    """All chunks' offsets, shape ``(chunks, expansion − 1)``, on the device of ``rows`` (expansion, elements)."""
    expansion, elements = rows.shape
    offsets = [draw.offsets(expansion, chunk) for chunk in range(-(-elements // CHUNK))]
    host = torch.tensor(offsets, dtype=torch.int32).view(len(offsets), expansion - 1)
    return host.to(rows.device, non_blocking=True)


@cache
def tables(expansion: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """The tables of an expansion's breaks, in a type wide enough to compute in."""
    wide = torch.float32 if dtype.itemsize < 4 else dtype
    return [table(power, wide, device) for power in range(expansion - 1, 0, -1)]


@cache
def table(power: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """U^{1/power} for U = (i + ½) / PERIOD in hashed order, shape ``(PERIOD + CHUNK,)``, the start repeated at the end.

    Tables are constants, shared by all kernels: 1 MB a power in float32.
    """
    order = torch.argsort(_hashed_counter(power))
    values = ((order.double() + 0.5) / PERIOD).pow(1.0 / power)
    return torch.cat((values, values[:CHUNK])).to(dtype).to(device)


def _hashed_counter(stream: int) -> Tensor:
    """The splitmix64 hash of PERIOD counters; the masks make torch's arithmetic shifts logical ones."""
    counter = torch.arange(1, PERIOD + 1, dtype=torch.int64) + stream * PERIOD
    z = counter * _signed(_GAMMA)
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _hashed(state: int) -> int:
    """The finalizer of splitmix64."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return state ^ (state >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
