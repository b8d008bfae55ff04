"""The receptive field of a kernel entry: which positions of every feature map it depends on.

``unit`` is one output unit at the middle of the last map, so that its receptive field is whole wherever the map is
large enough; ``pooled`` is the average over the last map, and depends on every position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from collegium.search.networks.chain import Axis, Chain, WeightLayer


@dataclass(frozen=True)
class Window:
    """A rectangle of a feature map: rows ``top … top + height − 1``, columns ``left … left + width − 1``."""

    top: int
    left: int
    height: int
    width: int

    @property
    def positions(self) -> int:
        """Number of positions in the window."""
        return self.height * self.width


def windows(chain: Chain, entry: str) -> list[Window]:
    """Windows of the maps before each layer and after the last one, for ``entry`` ``unit`` or ``pooled``.

    Positions outside a map are its zero padding and belong to no window. Widths play no part in it. Raises
    ``ValueError`` when a map is empty, the unit reads nothing but padding, or the entry is unknown.
    """
    sizes = _map_sizes(chain)
    last = sizes[-1]
    if entry == "pooled":
        return [Window(0, 0, height, width) for height, width in sizes]
    if entry != "unit":
        raise ValueError(f"entry must be 'unit' or 'pooled', got {entry!r}")
    found = [Window(last[0] // 2, last[1] // 2, 1, 1)]
    for layer, size in zip(reversed(chain.layers), reversed(sizes[:-1]), strict=True):
        found.append(_seen_by(layer, found[-1], size))
    return found[::-1]


def input_window(chain: Chain, entry: str) -> Window:
    """The window of the input map; its positions, row by row, index the Gram matrix of the entry's inputs."""
    return windows(chain, entry)[0]


def _map_sizes(chain: Chain) -> list[tuple[int, int]]:
    sizes = [(chain.height, chain.width)]
    for layer in chain.layers:
        height, width = sizes[-1]
        sizes.append((layer.output_size(height, 0), layer.output_size(width, 1)))
    if min(min(size) for size in sizes) < 1:
        raise ValueError(f"a feature map is empty: sizes {sizes}")
    return sizes


def _seen_by(layer: WeightLayer, out: Window, size: tuple[int, int]) -> Window:
    match layer.kind:
        case "dense":
            return Window(0, 0, *size)
        case "conv":
            top, height = _span(layer.along(0), out.top, out.height, size[0])
            left, width = _span(layer.along(1), out.left, out.width, size[1])
            return Window(top, left, height, width)
    assert_never(layer.kind)


def _span(axis: Axis, start: int, length: int, size: int) -> tuple[int, int]:
    """First input coordinate and extent that outputs ``start … start + length − 1`` read, inside ``0 … size − 1``."""
    first = start * axis.stride - axis.padding
    last = (start + length - 1) * axis.stride - axis.padding + axis.reach - 1
    low, high = max(first, 0), min(last, size - 1)
    if low > high:
        raise ValueError("the unit reads nothing but padding")
    return low, high - low + 1
