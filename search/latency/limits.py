"""Limits in any cost: counts, memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from collegium.search.text import NARROW_SPACE, grouped

#: What may be limited: exact counts, bytes of memory, and milliseconds.
CostName = Literal["parameters", "flops", "latency", "memory"]
#: What is counted or measured, as a sentence has it, and its unit.
COSTS: dict[CostName, str] = {"parameters": "parameters", "flops": "FLOPs", "latency": "time", "memory": "memory"}


@dataclass(frozen=True)
class CostLimit:
    """At most ``most`` of a cost, and the share ``tolerance`` more; ``field`` is the specification's."""

    cost: CostName
    most: float
    tolerance: float = 0.0
    field: str = "budget"


def shown(cost: CostName, value: float) -> str:
    """A cost with its unit.

    >>> shown("latency", 92.123), shown("memory", 3 * 2**20), shown("parameters", 557)
    ('92.1 ms', '3.0 MiB', '557 parameters')
    """
    if cost == "latency":
        return f"{value:.3g} ms"
    if cost == "memory":
        mebibytes = value / 2**20
        text = f"{mebibytes:,.1f} MiB" if mebibytes >= 1 else f"{value / 2**10:,.1f} KiB"
        return text.replace(",", NARROW_SPACE)
    return f"{grouped(value)} {COSTS[cost]}"


def pareto(values: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the pairs no other one dominates: is no larger in both and smaller in one.

    >>> pareto([(1.0, 1.0), (0.5, 2.0), (2.0, 2.0), (0.5, 3.0)])
    [True, True, False, False]
    """
    order = sorted(range(len(values)), key=lambda at: values[at])
    kept, least = [False] * len(values), float("inf")
    last: tuple[float, float] | None = None
    for at in order:
        if values[at][1] < least or values[at] == last:
            kept[at], least, last = True, values[at][1], values[at]
    return kept
