"""The receptive field of a kernel entry: which positions of every feature map it depends on.

``unit`` is one output unit at the middle of the last map, so that its receptive field is whole wherever the map is
large enough; ``pooled`` is the average over the last map, and depends on every position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from collegium.search.networks.chain import Axis, Chain, WeightLayer
from collegium.search.networks.pooling import PoolAxis, Pooling


@dataclass(frozen=True)
class Window:
    """A rectangle of a feature map: rows ``top … top + height − 1``, columns ``left … left + width − 1``.

    In a map that has a depth a block, from ``front`` to ``front + depth − 1`` along it.
    """

    top: int
    left: int
    height: int
    width: int
    front: int = 0
    depth: int | None = None

    @classmethod
    def of(cls, starts: Sequence[int], sizes: Sequence[int]) -> Window:
        """The window with a start and a size along each axis of the map."""
        *front, top, left = starts
        *depth, height, width = sizes
        return cls(top, left, height, width, *front, *depth)

    @property
    def starts(self) -> tuple[int, ...]:
        """Its first position along each axis of the map."""
        return (self.top, self.left) if self.depth is None else (self.front, self.top, self.left)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its positions along each axis of the map."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def positions(self) -> int:
        """Number of positions in the window."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class LayerWindows:
    """What of a layer an entry depends on: windows of the map that it reads and of what it computes.

    Pools behind it read ``computed`` and what the one before gives: ``pooled`` has the window behind each. ``size`` is
    that of the whole map that it computes.
    """

    read: Window
    computed: Window
    pooled: tuple[Window, ...]
    size: tuple[int, ...]


def windows(chain: Chain, entry: str) -> list[Window]:
    """Windows of the maps before each layer and after the last one, for ``entry`` ``unit`` or ``pooled``.

    Positions outside a map are its zero padding and belong to no window. Widths play no part in it. Raises
    ``ValueError`` when a map is empty, the unit or a pool reads nothing but padding, or the entry is unknown.
    """
    found = layer_windows(chain, entry)
    return [*(layer.read for layer in found), found[-1].computed]


def layer_windows(chain: Chain, entry: str) -> list[LayerWindows]:
    """The windows of each layer. Raises ``ValueError`` as ``windows`` does."""
    if entry not in ("unit", "pooled"):
        raise ValueError(f"entry must be 'unit' or 'pooled', got {entry!r}")
    maps = _map_sizes(chain)
    before = [chain.extents, *(sizes[-1] for sizes in maps)]
    if entry == "pooled":
        return [
            LayerWindows(_whole(read), _whole(size), tuple(map(_whole, pooled)), size)
            for read, (size, *pooled) in zip(before, maps, strict=False)
        ]
    out = Window.of([size // 2 for size in before[-1]], [1] * len(before[-1]))
    found: list[LayerWindows] = []
    for layer, sizes, read in zip(reversed(chain.layers), reversed(maps), before[-2::-1], strict=True):
        pooled = [out]
        for pool, own in zip(reversed(layer.pools), sizes[-2::-1], strict=True):
            pooled.append(_pooled_from(pool, pooled[-1], own))
        computed = pooled.pop()
        out = _seen_by(layer, computed, read)
        found.append(LayerWindows(out, computed, tuple(reversed(pooled)), sizes[0]))
    return found[::-1]


def input_window(chain: Chain, entry: str) -> Window:
    """The window of the input map; its positions, row by row, index the Gram matrix of the entry's inputs."""
    return windows(chain, entry)[0]


def _whole(size: Sequence[int]) -> Window:
    return Window.of([0] * len(size), size)


def _map_sizes(chain: Chain) -> list[list[tuple[int, ...]]]:
    """Extents of what each layer computes, and behind each of its pools."""
    found: list[list[tuple[int, ...]]] = []
    size = chain.extents
    axes = range(-len(size), 0)
    for layer in chain.layers:
        size = tuple(layer.computed_size(extent, axis) for extent, axis in zip(size, axes, strict=True))
        found.append([size])
        for pool in layer.pools:
            size = tuple(axis.output_size(extent) for axis, extent in zip(pool.axes, size, strict=True))
            found[-1].append(size)
    sizes = [chain.extents, *(each for layer in found for each in layer)]
    if min(min(size) for size in sizes) < 1:
        raise ValueError(f"a feature map is empty: sizes {sizes}")
    return found


def _seen_by(layer: WeightLayer, out: Window, size: tuple[int, ...]) -> Window:
    match layer.kind:
        case "dense":
            return _whole(size)
        case "conv":
            axes = [layer.along(axis) for axis in range(-len(size), 0)]
            spans = [_span(*each) for each in zip(axes, out.starts, out.sizes, size, strict=True)]
            return Window.of(*zip(*spans, strict=True))
    assert_never(layer.kind)


def _span(axis: Axis, start: int, length: int, size: int) -> tuple[int, int]:
    """First input coordinate and extent that outputs ``start … start + length − 1`` read, inside ``0 … size − 1``."""
    first = start * axis.stride - axis.padding
    last = (start + length - 1) * axis.stride - axis.padding + axis.reach - 1
    low, high = max(first, 0), min(last, size - 1)
    if low > high:
        raise ValueError("the unit reads nothing but padding")
    return low, high - low + 1


def _pooled_from(pool: Pooling, out: Window, size: tuple[int, ...]) -> Window:
    """What of a map of that ``size`` the pool reads for the window ``out`` of its outputs."""
    spans = [_pool_span(*each) for each in zip(pool.axes, out.starts, out.sizes, size, strict=True)]
    return Window.of(*zip(*spans, strict=True))


def _pool_span(axis: PoolAxis, start: int, length: int, size: int) -> tuple[int, int]:
    """As ``_span`` for a pool; what dilated windows leave out at the ends is in it."""
    first, last = axis.reads(start, size), axis.reads(start + length - 1, size)
    low, high = first[0], last[-1]
    if axis.output is None:
        low = max(0, start * axis.stride - axis.padding)
        high = min(size - 1, (start + length - 1) * axis.stride - axis.padding + axis.dilation * (axis.kernel - 1))
    return low, high - low + 1
