"""A grouped network as segments: those that its family names, or the whole network as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from collegium.search.errors import InvalidSpec
from collegium.search.latency.workload import Workload
from collegium.search.networks.family import FAMILIES
from collegium.search.networks.network import Network, StageGrouping
from collegium.search.networks.segment import Repeated, Segment


def segments(network: Network, stages: Sequence[StageGrouping], size: int | None = None) -> list[Repeated]:
    """The parts of a network whose stages are grouped so, in order; ``size`` as in ``Network.sample_shape``."""
    return network.segments(stages, size) or [Repeated(whole(network, stages, size), 1)]


def by_stage(network: Network, size: int | None = None) -> list[tuple[int | None, list[Repeated]]]:
    """Consecutive parts of the baseline, with the stage whose grouping they depend on; None where on none."""
    parts = segments(network, network.stage_groupings(network.baseline, network.multiplicity), size)
    return [(stage, list(own)) for stage, own in groupby(parts, key=lambda part: part.stage)]


def divided(network: Network) -> bool:
    """Whether every stage has parts of its own, so that time and memory follow from those of the stages."""
    stages = [stage for stage, _ in by_stage(network) if stage is not None]
    return stages == list(range(len(network.stage_scales)))


def whole(network: Network, stages: Sequence[StageGrouping], size: int | None = None) -> Segment:
    """The whole network as one segment, built by its family's module."""
    return Segment.of(
        FAMILIES[network.family].module,
        network.arguments_of(stages),
        network.sample_shape(size),
        *network.footprints(stages, size),
        leading=True,
        reads=network.reads,
    )


def check_workload(workload: Workload, network: Network) -> None:
    """Refuse a workload that the network does not take. Raises ``InvalidSpec`` with a path below ``workload``."""
    try:
        network.sample_shape(workload.image_size)
    except ValueError as error:
        raise InvalidSpec(("workload", "image_size"), f"{error}: leave it out") from None
    if workload.channels_last and not network.convolves:
        raise InvalidSpec(("workload", "channels_last"), "this network has no convolutions: leave it out")
