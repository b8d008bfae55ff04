"""``train.simplex`` as one fused loop per tensor, for devices and users that have a compiler.

The same numbers as the chunked operators of ``train.simplex``, written element by element so that ``torch.compile``
makes a single kernel of each function. On a GPU this is the way (one launch instead of some twenty per chunk), taken
whenever Triton is there. On a CPU the chunked operators are about as fast and need no compiler, so there it is off
until ``compile_on_cpu(True)``.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from train import simplex

_cpu = False


def compile_on_cpu(enabled: bool) -> bool:
    """Switch compiled draws on CPU tensors on or off in this process; return what it was before.

    Needs a C++ compiler at the next draw. Draws are the same numbers either way.
    """
    global _cpu
    before, _cpu = _cpu, enabled
    return before


def enabled(device: torch.device) -> bool:
    """Whether draws on ``device`` are compiled."""
    return _cpu if device.type == "cpu" else _has_triton(device.type)


@cache
def _has_triton(device: str) -> bool:
    from torch.utils._triton import has_triton

    return device == "cuda" and has_triton()


def mix(copies: Tensor, table: Tensor, keys: Tensor, out: Tensor) -> Tensor:
    """``simplex.mix`` of ``copies`` (expansion, elements) into ``out``."""
    _compiled(mix_traced)(copies, table, keys, out.detach().view(-1))
    return out


def spread(gradient: Tensor, table: Tensor, keys: Tensor, out: Tensor) -> None:
    """``simplex.spread`` of ``gradient`` (elements,) into ``out`` (expansion, elements)."""
    _compiled(spread_traced)(gradient, table, keys, out)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def mix_traced(copies: Tensor, table: Tensor, keys: Tensor, out: Tensor) -> None:
    """Elementwise form of ``simplex.mix``; ``keys`` is ``(chunks, expansion − 1, 2)``."""
    rows = copies.to(_accumulator(copies.dtype)).unbind()
    total = rows[-1]
    for bound, left, right in zip(bounds(table, keys, total), rows[:-1], rows[1:], strict=True):
        total = total + bound * (left - right)
    out.copy_(total)


def spread_traced(gradient: Tensor, table: Tensor, keys: Tensor, out: Tensor) -> None:
    """Elementwise form of ``simplex.spread``."""
    for row, share in zip(out.unbind(), shares(gradient, table, keys), strict=True):
        row.copy_(share)


def shares(gradient: Tensor, table: Tensor, keys: Tensor) -> list[Tensor]:
    """p_k ∘ gradient for each k, in the accumulating type."""
    wide = gradient.to(_accumulator(gradient.dtype))
    left = [bound * wide for bound in bounds(table, keys, wide)]
    ends = [*left, wide]
    return [end - start for end, start in zip(ends, [torch.zeros_like(wide), *left], strict=True)]


def bounds(table: Tensor, keys: Tensor, like: Tensor) -> list[Tensor]:
    """The sorted cuts b_1 ≤ … ≤ b_{e−1} in [0, 1] of each element of the flat ``like``."""
    element = torch.arange(like.shape[0], dtype=torch.int32, device=like.device)
    chunk, place = element // simplex.CHUNK, element % simplex.CHUNK
    cuts = keys.shape[1]
    words = [table[keys[chunk, j, 0] + place] + keys[chunk, j, 1].to(torch.int16) for j in range(cuts)]
    for low, high in _comparators(cuts):
        words[low], words[high] = torch.minimum(words[low], words[high]), torch.maximum(words[low], words[high])
    return [word.to(like.dtype) * simplex.UNIT + simplex.CENTRE for word in words]


@torch.compiler.assume_constant_result
def _comparators(count: int) -> tuple[tuple[int, int], ...]:
    return simplex.comparators(count)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype
