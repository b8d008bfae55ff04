"""From a baseline as posted to the network that a search works on; the place where a wrong baseline is refused."""

from __future__ import annotations

from typing import Any

from collegium.search.errors import InvalidSpec
from collegium.search.networks.family import FamilyBaseline, family_of
from collegium.search.networks.network import Network
from collegium.search.networks.presets import PRESETS
from collegium.search.spec import Baseline, PresetBaseline, SearchSpec
from collegium.search.validate import check_network, check_search


def expand_preset(baseline: Baseline) -> FamilyBaseline:
    """The full baseline behind a preset's name. Raises ``InvalidSpec`` for an unknown one."""
    if not isinstance(baseline, PresetBaseline):
        return baseline
    if baseline.preset not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise InvalidSpec(("baseline", "preset"), f"no preset is called '{baseline.preset}'; there are: {known}")
    return PRESETS[baseline.preset][0]


def build_network(baseline: Baseline) -> Network:
    """Lower a baseline; counts are exact and nothing is allocated. Raises ``InvalidSpec`` with the field's path."""
    full = expand_preset(baseline)
    network = family_of(full).build(full)
    check_network(network)
    return network


def validate_search(spec: SearchSpec) -> Network:
    """Validate a search and cost it analytically, before anything is stored or allocated. Raises ``InvalidSpec``."""
    network = build_network(spec.baseline)
    for part in network.parts:
        check_search(spec, part)
    return network


def describe_presets() -> list[dict[str, Any]]:
    """Every preset with its full baseline and its parameters and FLOPs, as ``GET /v1/presets`` lists them."""
    rows = []
    for name, (baseline, about) in PRESETS.items():
        network = build_network(baseline)
        rows.append(
            {
                "name": name,
                "about": about,
                "baseline": baseline.model_dump(mode="json", exclude_none=True),
                "parameters": network.count("parameters", network.baseline, network.multiplicity),
                "flops": network.count("flops", network.baseline, network.multiplicity),
            }
        )
    return rows
