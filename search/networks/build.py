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


def list_presets() -> list[dict[str, Any]]:
    """Every preset with its source and its parameters and FLOPs, as ``GET /v1/presets`` lists them."""
    return [_listed(name) for name in PRESETS]


def describe_preset(name: str) -> dict[str, Any]:
    """A preset as in the list, with its whole ``baseline``. Raises ``KeyError`` for an unknown name."""
    baseline, _ = PRESETS[name]
    return _listed(name) | {"baseline": baseline.model_dump(mode="json", exclude_none=True)}


def _listed(name: str) -> dict[str, Any]:
    library, separator, _ = name.partition(":")
    sizes, family = PRESETS.sizes.get(name), "network"
    if sizes is None:
        network = build_network(PRESETS[name][0])
        family = network.family
        sizes = {
            "parameters": network.count("parameters", network.baseline, network.multiplicity),
            "flops": network.count("flops", network.baseline, network.multiplicity),
        }
    source = library if separator else "collegium"
    return {"name": name, "about": PRESETS.about(name), "source": source, "family": family, **sizes}
