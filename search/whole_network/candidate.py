"""A network that is to be measured whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from collegium.search.networks.family import FAMILIES
from collegium.search.networks.graph.reading import Position
from collegium.search.networks.network import Network, StageGrouping

if TYPE_CHECKING:
    from torch import nn

#: Parameters of all draws that are computed at once on a device: those of small networks share their overhead.
PARAMETERS_AT_ONCE = {"cpu": 100_000, "cuda": 100_000_000}
MOST_AT_ONCE = 64


class Measured(Protocol):
    """What is measured whole: a module that can be built again and again, under a name.

    ``plain``: gradients are formed as autograd forms them, and parameters drawn by no law but the module's own.
    """

    plain: ClassVar[bool]

    @property
    def name(self) -> str:
        """Such as ``baseline`` or ``primal``."""
        ...

    @property
    def widths(self) -> tuple[int, ...]:
        """The free widths of a member."""
        ...

    @property
    def multiplicity(self) -> int:
        """The number of members."""
        ...

    @property
    def outputs(self) -> int:
        """Logits of the network."""
        ...

    @property
    def key(self) -> int:
        """A number that candidates with the same module share."""
        ...

    @property
    def title(self) -> str:
        """The network in a few words."""
        ...

    @property
    def label(self) -> str:
        """The grouping in a few characters."""
        ...

    @property
    def parameters(self) -> int:
        """Parameters of the whole network."""
        ...

    def at_once(self, device: str) -> int:
        """Draws to compute at once on ``device``."""
        ...

    def build(self) -> nn.Module:
        """The module at initialization."""
        ...


@dataclass(frozen=True)
class Candidate:
    """``multiplicity`` members of ``widths``, under a name such as ``baseline`` or ``primal``.

    ``stages`` groups each stage in its own way instead; ``widths`` and ``multiplicity`` are then the first stage's.
    ``position`` is where the logits of a map or of a sequence are read.
    """

    name: str
    network: Network
    widths: tuple[int, ...]
    multiplicity: int
    stages: tuple[StageGrouping, ...] | None = None
    named: str | None = None
    position: Position | None = None

    plain: ClassVar[bool] = False

    @property
    def outputs(self) -> int:
        """Logits that the network gives where they are read."""
        return self.network.logits_at(self.position)[0]

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Those of the family's module."""
        if self.stages is None:
            return self.network.arguments(self.widths, self.multiplicity)
        return self.network.arguments_of(self.stages)

    @property
    def key(self) -> int:
        """A number that candidates with the same module share, in every process."""
        content = [self.network.family, self.arguments]
        return int.from_bytes(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:8])

    @property
    def title(self) -> str:
        """The network in a few words."""
        if self.stages is None:
            return self.network.title_at(self.widths, self.multiplicity)
        return self.network.title_of(self.stages)

    @property
    def label(self) -> str:
        """Its grouping in a few characters, such as ``12×10``, or that of every stage, unless it is ``named``."""
        if self.named is not None:
            return self.named
        if self.stages is not None:
            return ", ".join(map(str, self.stages))
        return str(StageGrouping(self.widths, self.multiplicity))

    @property
    def parameters(self) -> int:
        """Parameters of the whole network."""
        if self.stages is None:
            return self.network.count("parameters", self.widths, self.multiplicity)
        return self.network.count_stages("parameters", self.stages)

    def at_once(self, device: str) -> int:
        """Draws to compute at once on ``device``; convolutions with weights for each draw are slow, so one of them."""
        if self.network.draws_apart:
            return 1
        most = PARAMETERS_AT_ONCE.get(device.partition(":")[0], 1) // max(1, self.parameters)
        return max(1, min(MOST_AT_ONCE, most))

    def build(self) -> nn.Module:
        """The family's module, initialized as it is trained."""
        module, _, name = FAMILIES[self.network.family].module.partition(":")
        return getattr(import_module(module), name)(**self.arguments)
