"""Segments: the parts of a network whose time is measured, each by itself.

A segment is a module that is run whole, such as a residual block with its norms, rectifiers and addition. Single layers
would be measured without what happens between them. Equal segments are equal values, so that a network names each of
them once with how often it occurs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from collegium.search.networks.footprint import Footprint
from collegium.search.networks.graph.content import Input


@dataclass(frozen=True)
class Segment:
    """A part of a network: a module, the arguments it is built with, and the shape of one sample of its input.

    ``module`` is ``package.module:callable``; ``arguments`` are its keyword arguments as JSON. ``leading`` marks the
    segment that takes the network's inputs, whose gradient is not needed. ``footprints`` are its memory, part by part.
    ``reads`` are its inputs where they are not one tensor of numbers of that shape.
    """

    module: str
    arguments: str
    shape: tuple[int, ...]
    footprints: tuple[Footprint, ...]
    leading: bool = False
    reads: tuple[Input, ...] = ()

    @classmethod
    def of(
        cls,
        module: str,
        arguments: Mapping[str, Any],
        shape: tuple[int, ...],
        *footprints: Footprint,
        leading: bool = False,
        reads: tuple[Input, ...] = (),
    ) -> Segment:
        """The segment of a module with plain ``arguments``.

        >>> one = Segment.of("torch.nn:Linear", {"in_features": 3, "out_features": 2}, (3,))
        >>> one == Segment.of("torch.nn:Linear", {"out_features": 2, "in_features": 3}, (3,))
        True
        """
        return cls(module, json.dumps(arguments, sort_keys=True), shape, footprints, leading, reads)

    @cached_property
    def key(self) -> str:
        """A hash of what determines the time, shared by equal segments in every process (SHA-256, hex)."""
        content: list[Any] = [self.module, self.arguments, list(self.shape), self.leading]
        content += [each.model_dump(mode="json") for each in self.reads]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def parameters(self) -> int:
        """Its trainable numbers."""
        return sum(footprint.parameters for footprint in self.footprints)

    def build(self) -> Any:
        """The ``nn.Module``, on torch's current default device."""
        place, _, name = self.module.partition(":")
        return getattr(import_module(place), name)(**json.loads(self.arguments))


@dataclass(frozen=True)
class Repeated:
    """A segment and how many times in a row the network runs it, each with parameters of its own.

    ``stage`` is the index of the stage whose grouping it depends on; None where it depends on none, or on several.
    """

    segment: Segment
    count: int
    stage: int | None = None


def footprints_of(parts: Sequence[Repeated]) -> tuple[Footprint, ...]:
    """The footprints of parts that run one after another."""
    return tuple(footprint for part in parts for _ in range(part.count) for footprint in part.segment.footprints)
