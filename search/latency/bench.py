"""What times segments: a device with its clock.

A search has no clock of its own: times come through a ``Bench``, in whose place tests have a deterministic one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from collegium.search.latency.workload import Workload
from collegium.search.networks.segment import Segment

#: Seconds for one call, the mean over so many calls in a row.
Timer = Callable[[int], float]


class Bench(Protocol):
    """Where segments are timed. ``machine`` identifies the device and the software, and is part of what is stored."""

    @property
    def machine(self) -> str:
        """Device and software in words."""
        ...

    @property
    def threaded(self) -> bool:
        """Whether threads of a processor do the work."""
        ...

    @property
    def room(self) -> int:
        """Bytes that segments may take which are built at a time."""
        ...

    def threads(self, workload: Workload) -> int:
        """Threads of a processor that the workload uses."""
        ...

    def settings(self, workload: Workload) -> AbstractContextManager[None]:
        """Context in which segments of the workload are run."""
        ...

    def prepare(self, segment: Segment, workload: Workload) -> Timer:
        """Build a segment, ready to be timed."""
        ...
