"""From a baseline as posted to the network that a search works on; the place where a wrong baseline is refused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from collegium.counted import counted
from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_extents import at_extents
from collegium.search.networks.family import FamilyBaseline, family_of
from collegium.search.networks.network import Network
from collegium.search.networks.presets import PRESETS
from collegium.search.spec import Baseline, PresetBaseline, SearchSpec
from collegium.search.validate import check_network, check_search


def expand_preset(baseline: Baseline) -> FamilyBaseline:
    """The full baseline behind a preset's name, at samples of its ``input`` if that is given.

    Raises ``InvalidSpec`` for an unknown name, and for samples that the network does not take.

    >>> from collegium.search.spec import PresetBaseline
    >>> small = expand_preset(PresetBaseline(preset="torchvision:vgg16", input=(3, 32, 32)))
    >>> small.input, small.parameters == expand_preset(PresetBaseline(preset="torchvision:vgg16")).parameters
    ((3, 32, 32), True)
    """
    if not isinstance(baseline, PresetBaseline):
        return baseline
    if baseline.preset not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise InvalidSpec(("baseline", "preset"), f"no preset is called '{baseline.preset}'; there are: {known}")
    return PRESETS[baseline.preset][0] if baseline.input is None else _at_input(baseline.preset, baseline.input)


@lru_cache(maxsize=32)
def _at_input(name: str, shape: tuple[int, ...]) -> NetworkBaseline:
    """A described preset at samples of this shape. Raises ``InvalidSpec``."""
    full, path = PRESETS[name][0], ("baseline", "input")
    if not isinstance(full, NetworkBaseline):
        twin = f", or name 'torchvision:{name}'" if f"torchvision:{name}" in PRESETS else ""
        raise InvalidSpec(
            path, f"samples of {name} follow from the fields of its family {full.family_name()}: give those{twin}"
        )
    own = "×".join(map(str, full.input))
    if shape == full.input:
        return full
    if not full.any_extent:
        raise InvalidSpec(path, f"{name} takes samples of {own} alone: its graph is another one at other extents")
    if len(shape) != len(full.input) or shape[0] != full.input[0]:
        channels = counted(full.input[0], "channel")
        raise InvalidSpec(path, f"{name} takes samples of {channels} and two extents, such as {own}")
    try:
        return at_extents(full, shape[1:])[0]
    except SampleMismatch as mismatch:
        message = mismatch.message.removeprefix("has ")
        raise InvalidSpec(path, f"{message}: {mismatch.remedy}") from None


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
