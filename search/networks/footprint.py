"""The numbers that a part of a network holds while it runs, from which memory is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from collegium.search.networks.chain import Chain


@dataclass(frozen=True)
class Footprint:
    """Numbers held by one part of a network, those of maps for one sample.

    ``parameters`` and ``buffers`` (such as the running moments of norms) are there throughout. ``kept`` is what the
    forward pass leaves for the backward pass, the part's input not included unless it is the network's. ``live`` is the
    most that inference holds at a time, the input included; ``transient`` the most that the backward pass holds at a
    time beyond what was kept. ``index_bytes`` are bytes that are kept whatever the precision: where a max-pool found
    its maxima.
    """

    parameters: int
    buffers: int = field(default=0, kw_only=True)
    kept: int = field(kw_only=True)
    live: int = field(kw_only=True)
    transient: int = field(kw_only=True)
    index_bytes: int = field(default=0, kw_only=True)


def chain_footprints(
    chain: Chain, widths: Sequence[int], multiplicity: int, *, parameters: int, copies: int = 1
) -> tuple[Footprint, ...]:
    """The layers of m members of a chain, each of whose maps but the last is kept ``copies`` times.

    Twice where the derivative of its activation follows from what comes in, not from what goes out.
    ``parameters`` is the whole network's count; those that are not weights of the chain stand with the last layer.
    """
    shapes = [math.prod(shape) for shape in chain.shapes(widths)]
    maps = [shapes[0], *(multiplicity * shape for shape in shapes[1:])]
    outs = [shape[0] for shape in chain.shapes(widths)[1:]]
    weights = [multiplicity * out * fan for out, fan in zip(outs, chain.fan_ins(widths), strict=True)]
    weights[-1] += parameters - sum(weights)
    times = [max(copies, 1 + layer.phi.keeps_input) for layer in chain.layers[:-1]]
    kept = [count * size for count, size in zip(times, maps[1:-1], strict=True)] + [0]
    kept[0] += maps[0]
    return tuple(
        Footprint(own, kept=left, live=below + 2 * above, transient=below + above)
        for own, left, below, above in zip(weights, kept, maps, maps[1:], strict=False)
    )
