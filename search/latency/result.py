"""Measured times and counted memory in a search's result. Nothing here loads torch."""

from __future__ import annotations

from typing import Literal

from collegium.search.part import MemberWidths, Part

#: The costs in which a front is given, beside the variance.
Cost = Literal["latency", "parameters", "memory"]


class CostRow(MemberWidths):
    """One ensemble with everything that it costs under the workload.

    ``relative_variance`` is the variance over the baseline's, in the stage where that is largest. ``latency_ms`` is
    the time of one batch (forward pass, or training step) with its standard error, null where no time was measured;
    ``memory_bytes`` the most that is held at a time. ``fronts`` names the costs in which no other row has both less
    variance and less cost. Where ``uniform`` is false, every stage has its own m and n, which ``label`` lists;
    ``widths`` and ``multiplicity`` are then the first stage's.
    """

    label: str
    multiplicity: int
    relative_variance: float
    parameters: int
    flops: int
    latency_ms: float | None
    latency_error_ms: float | None
    memory_bytes: int
    fronts: tuple[Cost, ...] = ()
    uniform: bool = True


class WholeCheck(MemberWidths):
    """One network measured whole and as the sum of its parts, in turn; ``deviation`` is the sum's, relative.

    Times are at the speed of the rows: ``sum_ms`` is the row's ``latency_ms``. ``label`` is the row's, empty in results
    that were stored earlier.
    """

    multiplicity: int
    label: str = ""
    whole_ms: float
    whole_error_ms: float
    sum_ms: float
    sum_error_ms: float
    deviation: float


class CostFront(Part):
    """What ensembles cost in time and memory, and which of them nothing else beats.

    ``workload`` is in words, ``machine`` names the device with its software and ``threads`` those used; both are null
    where memory alone was counted. ``measured`` parts were timed, ``reused`` ones had been by an earlier search.
    ``rows`` are all ensembles considered, the baseline first. ``checks`` compare sums over parts with whole networks;
    none where a network is timed as a whole.
    """

    workload: str
    machine: str | None
    threads: int | None
    measured: int
    reused: int
    rows: tuple[CostRow, ...]
    checks: tuple[WholeCheck, ...] = ()

    @property
    def baseline(self) -> CostRow:
        """The baseline's row."""
        return self.rows[0]
