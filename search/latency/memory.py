"""Bytes of memory that a workload needs, counted from parameters and feature maps.

Counted are weights, running moments, gradients, the optimizer's state and feature maps; not the libraries' workspaces
(on a processor, about the weights of one layer), the allocator's slack, or the program itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from collegium.search.latency.workload import Workload
from collegium.search.networks.footprint import Footprint
from collegium.search.networks.network import Network, StageGrouping

#: Bytes of a number in float32, and of a number by precision.
FLOAT = 4
BYTES = {"fp32": FLOAT, "tf32": FLOAT, "bf16": 2}
#: Numbers of the optimizer's state for each weight: the momentum, or two moments.
STATE = {"sgd": 1, "adam": 2, "adamw": 2}


def memory_bytes(network: Network, stages: Sequence[StageGrouping], workload: Workload) -> int:
    """The most bytes held at a time by a network whose stages are grouped so, under the workload.

    >>> from collegium.search.networks.build import build_network
    >>> from collegium.search.spec import PresetBaseline
    >>> network = build_network(PresetBaseline(preset="resnet50"))
    >>> memory_bytes(network, network.stage_groupings((64, 64), 1), Workload()) // 2**20
    104
    """
    return peak_bytes(network.footprints(stages, workload.image_size), workload)


def peak_bytes(parts: Sequence[Footprint], workload: Workload) -> int:
    """The most bytes held at a time by parts that run in this order."""
    return _training(parts, workload) if workload.training else _inference(parts, workload)


def _inference(parts: Sequence[Footprint], workload: Workload) -> int:
    weights = sum(part.parameters + part.buffers for part in parts)
    return BYTES[workload.precision] * (weights + workload.batch_size * max(part.live for part in parts))


def _training(parts: Sequence[Footprint], workload: Workload) -> int:
    """The backward pass frees maps and adds gradients, from the last part to the first: its largest moment."""
    number, batch = BYTES[workload.precision], workload.batch_size
    fixed = sum((1 + STATE[workload.optimizer]) * part.parameters + part.buffers for part in parts)
    kept = before = 0
    largest = gradients = sum(part.parameters for part in parts) * FLOAT
    for part in parts:
        # Mixed precision keeps a rounded copy of each weight from the forward to the backward pass.
        copies = number * part.parameters if number != FLOAT else 0
        kept += batch * (number * part.kept + part.index_bytes) + copies
        largest = max(largest, kept + batch * number * part.transient + gradients - before)
        before += FLOAT * part.parameters
    return FLOAT * fixed + largest
