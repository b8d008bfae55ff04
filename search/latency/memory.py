"""Bytes of memory that a workload needs, counted from parameters and feature maps.

Counted are weights, running moments, gradients, the optimizer's state and feature maps; not the libraries' workspaces
(on a processor, about the weights of one layer), the allocator's slack, or the program itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

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
    108
    """
    return peak_bytes(network.footprints(stages, workload.image_size), workload)


def peak_bytes(parts: Sequence[Footprint], workload: Workload) -> int:
    """The most bytes held at a time by parts that run in this order."""
    return held(parts, workload).most


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that consecutive parts of a network hold, by which part of the network runs.

    ``own`` is the most that they hold while one of them runs; ``later`` while a later part does, ``earlier`` while an
    earlier one does. In training it is the backward pass that decides: what a part keeps for it is held while later
    parts run, and its gradients while earlier ones do.

    The composition of parts is associative, so that the memory of a network is the largest of a few sums over its
    stages: one for each place, the stage that runs, and one for the end of a step.
    """

    later: int
    own: int
    earlier: int

    def then(self, after: Held) -> Held:
        """These parts and those that follow them."""
        return Held(
            self.later + after.later,
            max(self.own + after.earlier, self.later + after.own),
            self.earlier + after.earlier,
        )

    @property
    def most(self) -> int:
        """The most bytes at a time: while a part runs, or when all gradients are there."""
        return max(self.own, self.earlier)


def held(parts: Sequence[Footprint], workload: Workload) -> Held:
    """What parts that run in this order hold together."""
    one = _trained if workload.training else _run
    return reduce(Held.then, (one(part, workload) for part in parts), Held(0, 0, 0))


def _run(part: Footprint, workload: Workload) -> Held:
    number = BYTES[workload.precision]
    weights = number * (part.parameters + part.buffers)
    return Held(weights, weights + number * workload.batch_size * part.live, weights)


def _trained(part: Footprint, workload: Workload) -> Held:
    """The backward pass frees maps and adds gradients, from the last part to the first."""
    number, batch = BYTES[workload.precision], workload.batch_size
    always = FLOAT * ((1 + STATE[workload.optimizer]) * part.parameters + part.buffers)
    gradients = FLOAT * part.parameters
    # Mixed precision keeps a rounded copy of each weight from the forward to the backward pass.
    copies = number * part.parameters if number != FLOAT else 0
    kept = always + batch * (number * part.kept + part.index_bytes) + copies
    return Held(kept, kept + batch * number * part.transient + gradients, always + gradients)
