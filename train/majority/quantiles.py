"""Quantiles of powers of uniform numbers in hashed order: the random numbers that ``draw`` reads."""

from functools import cache

import torch
from torch import Tensor

CHUNK = 1 << 17  # elements: large enough to hide an operator's cost, small enough for the cores' caches
PERIOD = 1 << 17  # values in a table; at least CHUNK
MASK64 = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment


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
    z = counter * _signed(GAMMA)
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def hashed(state: int) -> int:
    """The finalizer of splitmix64."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK64
    return state ^ (state >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
