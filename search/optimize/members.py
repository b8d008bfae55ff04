"""The members that a search considers, as the space of its specification names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from collegium.search.networks.network import Network
from collegium.search.spec import SpaceSpec

#: Widths listed one by one; longer ranges are thinned to geometric steps.
DENSE = 512
#: Most allowed values of one coordinate of a width vector.
MOST_VALUES = 4096


def scaled_members(network: Network, space: SpaceSpec) -> tuple[tuple[int, ...], ...]:
    """Width vectors in the baseline's ratio, by the first free width; every width obeys the space.

    Where the space names no end, the range ends at the baseline's own width; at m times that for a baseline of m
    members, which wider ones may replace. Ranges of more than 512 widths are listed one by one up to 256 and at
    geometric steps beyond; ``between`` fills a gap.
    """
    step = _step(network, space, 0)
    return _members(network, space, _thinned(space.min_width, _top(network, space, 0), step))


def between(network: Network, space: SpaceSpec, low: int, high: int) -> tuple[tuple[int, ...], ...]:
    """Every scaled member whose first width is in ``low … high`` (at most 512 of them, evenly spread)."""
    step = _step(network, space, 0)
    widths = np.arange(-(-low // step) * step, high + 1, step)
    if len(widths) > DENSE:
        widths = widths[np.linspace(0, len(widths) - 1, DENSE).round().astype(int)]
    return _members(network, space, widths.tolist())


def listed_members(network: Network, space: SpaceSpec) -> tuple[tuple[int, ...], ...]:
    """The members that ``space.widths`` names: whole vectors as they are, tied widths in the baseline's ratio."""
    named = (item if isinstance(item, tuple) else network.scaled(item) for item in space.widths or ())
    return tuple(dict.fromkeys(widths for widths in named if _groups_divide(network, widths)))


def holds(network: Network, space: SpaceSpec) -> bool:
    """Whether the space holds the baseline itself."""
    if space.max_multiplicity is not None and network.multiplicity > space.max_multiplicity:
        return False
    if space.widths is not None:
        return network.baseline in listed_members(network, space)
    return all(
        space.min_width <= width <= (space.max_width or width) and width % space.multiple_of == 0
        for width in network.baseline
    )


def vector_values(network: Network, space: SpaceSpec) -> list[np.ndarray]:
    """Allowed values of every free width on its own, sorted; long ranges are thinned to geometric steps."""
    values = []
    for index in range(len(network.baseline)):
        step = _step(network, space, index)
        high = _top(network, space, index)
        values.append(np.array(_thinned(space.min_width, high, step, MOST_VALUES), dtype=int))
    return values


def vector_members(network: Network, space: SpaceSpec) -> tuple[tuple[int, ...], ...]:
    """Width vectors from which a search of all vectors begins: the members in the baseline's ratio, and the narrowest.

    Where the space has no member in that ratio, those of its vectors that are nearest to it. The narrowest vector costs
    least of all, so where it does not fit a limit nothing does.
    """
    values = vector_values(network, space)
    if not all(len(allowed) for allowed in values):
        return ()
    narrowest = tuple(int(allowed[0]) for allowed in values)
    tied = scaled_members(network, space) or _nearest_members(network, space, values)
    return tuple(sorted({narrowest, *tied}))


def _nearest_members(network: Network, space: SpaceSpec, values: Sequence[np.ndarray]) -> tuple[tuple[int, ...], ...]:
    first = _thinned(space.min_width, _top(network, space, 0), _step(network, space, 0))
    return tuple(
        tuple(
            int(allowed[np.abs(allowed - width).argmin()])
            for allowed, width in zip(values, network.scaled(one), strict=True)
        )
        for one in first
    )


def _members(network: Network, space: SpaceSpec, first: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    tops = [_top(network, space, index) for index in range(len(network.baseline))]
    members = {}
    for width in first:
        snapped = tuple(
            _nearest_multiple(value, _step(network, space, index))
            for index, value in enumerate(network.scaled(int(width)))
        )
        if min(snapped) >= space.min_width and all(map(int.__le__, snapped, tops)):
            members[snapped] = None
    return tuple(members)


def _top(network: Network, space: SpaceSpec, index: int) -> int:
    own = network.baseline[index] * network.multiplicity
    return space.max_width or max(own, space.min_width)


def _step(network: Network, space: SpaceSpec, index: int) -> int:
    return int(np.lcm(space.multiple_of, network.width_grains[index]))


def _nearest_multiple(value: int, step: int) -> int:
    return max(step, round(value / step) * step)


def _groups_divide(network: Network, widths: tuple[int, ...]) -> bool:
    return all(width % grain == 0 for width, grain in zip(widths, network.width_grains, strict=True))


def _thinned(low: int, high: int, step: int, dense: int = DENSE) -> list[int]:
    """Multiples of ``step`` in ``low … high``: all of them, or geometric steps beyond the first half of ``dense``."""
    first, last = -(-low // step), high // step
    if last < first:
        return []
    if last - first < dense:
        return [step * k for k in range(first, last + 1)]
    knee = first + dense // 2
    steps = np.unique(np.geomspace(knee, last, dense // 2).round().astype(int))
    return [step * k for k in [*range(first, knee), *steps.tolist()]]
