"""Pools between the layers of a chain: a maximum or a mean over windows of every channel.

A window is the product of one window along each axis of the map, so that a maximum or mean over it is one over each
axis in turn. It never holds padding: of a maximum that never wins, to a mean it adds zeros, which the divisor counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PoolAxis:
    """A pool's windows along one axis of a map: by their sizes, or as many of them as ``output`` says.

    Adaptive windows split the axis as PyTorch's do: the i-th of o windows over s positions goes from ⌊i s / o⌋ to
    ⌈(i + 1) s / o⌉.
    """

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil_mode: bool = False
    output: int | None = None

    def output_size(self, size: int) -> int:
        """Windows over ``size`` positions.

        >>> [PoolAxis(3, 2, 1).output_size(8), PoolAxis(3, 2, 1, ceil_mode=True).output_size(8)]
        [4, 5]
        """
        if self.output is not None:
            return self.output
        room = size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        if not self.ceil_mode:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        # The last window must begin inside the map or its padding before it.
        return count - 1 if (count - 1) * self.stride >= size + self.padding else count

    def reads(self, index: int, size: int) -> range:
        """Positions of the map that the window of that index reads. Raises ``ValueError`` where there are none."""
        if self.output is not None:
            return range(index * size // self.output, -(-(index + 1) * size // self.output))
        start = index * self.stride - self.padding
        first = start + self.dilation * max(0, -(start // self.dilation))
        found = range(first, min(size, start + self.dilation * (self.kernel - 1) + 1), self.dilation)
        if not found:
            raise ValueError("a pool's window reads nothing but padding")
        return found

    def divisor(self, index: int, size: int, *, count_padding: bool) -> int:
        """What a mean over the window of that index divides its sum by."""
        if self.output is not None or not count_padding:
            return len(self.reads(index, size))
        start = index * self.stride - self.padding
        return min(start + self.kernel, size + self.padding) - start


@dataclass(frozen=True)
class Pooling:
    """A maximum or mean over windows, which ``axes`` gives along each axis of the map.

    ``count_padding`` says whether a mean counts the zeros of padding.
    """

    function: Literal["max", "average"]
    axes: tuple[PoolAxis, ...]
    count_padding: bool = True
