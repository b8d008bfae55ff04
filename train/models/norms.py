"""Which networks can be trained on one sample at a time, by arithmetic on the specification. No torch here."""

from __future__ import annotations

import math

from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.families.resnext import ResidualNetwork, halved
from collegium.search.networks.graph.spec import NormLayer
from collegium.train.models.grouping import GroupedNetwork


def needs_two_samples(ensemble: GroupedNetwork, sample: tuple[int, ...] | None) -> bool:
    """Whether a batch norm takes the variance of one value of each channel where one ``sample`` is trained on.

    A map of several positions has as many values. Networks of families that are not of this package have no such norms,
    as far as is known.
    """
    network = ensemble.network
    if isinstance(network, ResidualNetwork):
        return _last_positions(network, sample) == 1
    if isinstance(network, GraphNetwork) and network.described.graph is not None:
        return 1 in _normed_positions(network, ensemble)
    return False


def _last_positions(network: ResidualNetwork, sample: tuple[int, ...] | None) -> int:
    """Positions of the last map, the smallest one."""
    extents = network.sample_shape()[1:] if sample is None or len(sample) != 3 else sample[1:]
    strides = [*((2, 2) if network.layout.stem.pooled else ()), *(stage.stride for stage in network.stages)]
    for stride in strides:
        extents = tuple(halved(extent, stride) for extent in extents)
    return math.prod(extents)


def _normed_positions(network: GraphNetwork, ensemble: GroupedNetwork) -> set[int]:
    """Of one sample, the values of a channel that each batch norm of a described network reads."""
    inferred = network.regrouped(ensemble.stages)
    norms = {layer.path for layer in inferred.graph.layers if isinstance(layer, NormLayer) and layer.norm == "batch"}
    read = zip(inferred.graph.nodes, inferred.shapes[-len(inferred.graph.nodes) :], strict=True)
    return {abs(shape[0]) * math.prod(shape[2:]) for node, shape in read if node.layer in norms}
