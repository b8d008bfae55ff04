"""p from tables of quantiles, read at hashed places: one read a number, and numbers that are not independent.

For each power j a circular table holds U^{1/j} for the PERIOD midpoints of equal intervals of [0, 1], each once, in the
order of a hashed counter; the elements of a chunk read it from a place that hashes (seed, step, kernel, chunk, break).
Every element takes each quantile with the same probability in every step, so its own law is exact. Its limits:

* A chunk, 2^17 elements here, has 17 random bits for each break: one element's p determines that of all others.
* Chunks, kernels of one shape and steps share their numbers, shifted; with two copies a whole pattern returns once in
  some 2^17 draws.
* Each quantile occurs once in a whole chunk, so that sums of p over a chunk with nearly equal weights vary less than
  those of independent draws, down to a constant for equal weights.

What Mazzawi et al. (2024) describe is independent; the table is for comparison.
"""

from functools import cache

import torch
from torch import Tensor

from collegium.train.majority.generators.uniforms import PERIOD, Draw, hashed_counters


def places(draw: Draw, expansion: int, chunk: int) -> list[int]:
    """Where chunk number ``chunk`` starts to read in the table of each of the e − 1 breaks."""
    words = draw.words(chunk, (expansion + 1) // 3)
    return [(word >> bits) % PERIOD for word in words for bits in (0, 20, 40)][: expansion - 1]


def fractions(draw: Draw, expansion: int, chunk: int, like: Tensor) -> list[Tensor]:
    """q_1 … q_{e−1} of one chunk: views of the tables, of the length of the flat ``like``."""
    found = [quantiles(power, like.dtype, like.device) for power in range(expansion - 1, 0, -1)]
    at = places(draw, expansion, chunk)
    return [table.narrow(0, place, like.shape[0]) for table, place in zip(found, at, strict=True)]


@cache
def quantiles(power: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """U^{1/power} for U = (i + ½) / PERIOD in hashed order, shape ``(2 PERIOD,)``: twice.

    Tables are constants, shared by all kernels: 1 MB a power in float32.
    """
    order = torch.argsort(hashed_counters(power))
    values = ((order.double() + 0.5) / PERIOD).pow(1.0 / power)
    return torch.cat((values, values)).to(dtype).to(device)
