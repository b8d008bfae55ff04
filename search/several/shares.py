"""What one part of a network may spend of a budget or a limit on the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from collegium.search.latency.limits import CostName
from collegium.search.networks.network import Measure, Network
from collegium.search.spec import SearchSpec

#: The fields that limit what is measured of the whole network.
FIELDS: dict[CostName, str] = {"latency": "max_latency_ms", "memory": "max_memory_bytes"}


def part_spec(
    spec: SearchSpec,
    parts: Sequence[Network],
    part: Network,
    measured: Mapping[CostName, float] | None = None,
) -> SearchSpec:
    """The specification of one part: of each limit on the whole network, what it leaves where the others are fixed.

    What a limit leaves beside the fixed cost is divided as the baseline divides it. A part's own network has the others
    as they are, so its limit is the whole one's plus what the others would save. ``measured`` has such limits of time
    and memory. Whole networks are measured with all parts together, not in the search of one.
    """
    changed: dict[str, Any] = {
        field: _share(parts, part, measure, most)
        for field, measure in _limited(spec)
        if (most := getattr(spec, field)) is not None
    }
    for cost, most in (measured or {}).items():
        changed[FIELDS[cost]] = max(1, math.floor(most)) if cost == "memory" else max(1e-6, most)
    if spec.verify == "network":
        changed["verify"] = False
    return spec.model_copy(update=changed)


def given_limits(spec: SearchSpec, fields: Sequence[str]) -> list[tuple[Measure, int]]:
    """Those of ``fields`` that have a limit, as the measure and the most of it."""
    return [
        (measure, most)
        for field, measure in _limited(spec)
        if field in fields and (most := getattr(spec, field)) is not None
    ]


def members_cost(part: Network, measure: Measure) -> int:
    """What the members of a part's baseline cost."""
    return part.multiplicity * part.affine(measure, part.baseline)[1]


def _limited(spec: SearchSpec) -> tuple[tuple[str, Measure], ...]:
    budget: Measure = "flops" if spec.efficiency == "flops" else "parameters"
    return ("budget", budget), ("max_parameters", "parameters"), ("max_flops", "flops")


def _share(parts: Sequence[Network], part: Network, measure: Measure, most: int) -> int:
    costs = [members_cost(each, measure) for each in parts]
    own, whole = members_cost(part, measure), part.count(measure, part.baseline, part.multiplicity)
    kept = (most - (whole - sum(costs))) / sum(costs)
    return max(1, math.floor(whole - own + own * kept))
