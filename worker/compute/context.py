"""What a handler is given: folders, a device, and the calls by which it reports and stores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from collegium.jobs.record import check_writable
from collegium.worker import protocol
from collegium.worker.compute.connection import SupervisorConnection
from collegium.worker.failures import JobRejected
from collegium.worker.protocol import (
    ChildrenEnded,
    ChildrenProgress,
    Estimate,
    EventsWritten,
    GetEstimate,
    PutEstimate,
    Run,
)

T = TypeVar("T", bound=protocol.Message)
REPORT_INTERVAL_S = 0.05
ChildSpec = Mapping[str, Any]
ChildOutcome = dict[str, Any]


class Cancelled(BaseException):
    """The job was asked to stop. Not an ``Exception``, so that only code that must clean up catches it."""


class Context:
    """One job as its handler sees it.

    ``workdir`` is this attempt's own. The files in ``artifact_dir`` when the job ends, however it ends, are published
    (names that begin with a dot are not, so write under such a name and rename). ``checkpoint_dir`` survives
    attempts. ``data_dir`` holds published data sets, ``datasets_dir`` uploaded ones. ``divides`` says whether other
    workers may compute children at the same time, so that dividing the work pays.
    """

    divides = True

    def __init__(self, run: Run, supervisor: SupervisorConnection) -> None:
        self.job = run.job
        self.attempt = run.attempt
        self.device = run.device
        self.workdir = Path(run.workdir)
        self.artifact_dir = self.workdir / "artifacts"
        self.checkpoint_dir = Path(run.checkpoint_dir)
        self.data_dir = Path(run.data_dir)
        self.datasets_dir = Path(run.datasets_dir)
        self._estimates: dict[str, Any] = {}
        self._supervisor = supervisor
        self._last_report = -math.inf
        self._unsettled = False

    def check(self) -> None:
        """Raise ``Cancelled`` if the job was asked to stop."""
        if self._supervisor.cancelled.is_set():
            raise Cancelled

    def report(self, fraction: float, message: str = "") -> None:
        """Report progress; cheap enough for an inner loop. Raises ``Cancelled``."""
        self.check()
        now = time.monotonic()
        if now - self._last_report < REPORT_INTERVAL_S and fraction < 1:
            return
        self._last_report = now
        fraction = min(1.0, max(0.0, float(fraction))) if math.isfinite(fraction) else 0.0
        self._supervisor.send(protocol.Progress(fraction, message))

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Add an entry of a ``WRITABLE`` type to the history. Raises ``Cancelled``, and ValueError for others.

        The entry is added even then: a job that is stopped may go on behind it, and would not add it again.
        """
        check_writable(event_type)
        self._supervisor.send(protocol.AddEvent(event_type, dict(data)))
        self._unsettled = True
        self.check()

    def settle(self) -> None:
        """Wait until all entries are in the history, so that a checkpoint may be kept from which a second attempt goes
        on behind them. Raises nothing where the job was asked to stop.
        """
        if not self._unsettled:
            return
        self._supervisor.send(protocol.WriteEvents())
        while not isinstance(self._supervisor.reply(timeout=0.1), EventsWritten):
            pass
        self._unsettled = False

    def get_estimate(self, key: str) -> dict[str, Any] | None:
        """The estimate stored under ``key`` by any earlier job."""
        if key not in self._estimates:
            self._supervisor.send(GetEstimate(key))
            answer = self._await(Estimate)
            if answer.value is None:
                return None
            self._estimates[key] = answer.value
        return self._estimates[key]

    def put_estimate(self, key: str, value: Mapping[str, Any]) -> None:
        """Store an estimate for later jobs."""
        self._estimates[key] = dict(value)
        self._supervisor.send(PutEstimate(key, dict(value)))

    def fan_out(
        self, children: Sequence[ChildSpec], progress: Callable[[int, int], None] | None = None
    ) -> list[ChildOutcome]:
        """Run ``children`` as jobs of their own, here and on other workers, and wait for all of them.

        A child is ``{key, kind, spec}``; its key, unique within this job, makes a second attempt find what the first
        one left. Outcomes ``{key, id, status, result, failure}`` come in the order of ``children``; a child that
        failed does not raise. Raises ``Cancelled``.
        """
        if not children:
            return []
        self._supervisor.send(protocol.StartChildren([dict(child) for child in children]))
        answer = self._await(ChildrenEnded, progress)
        if answer.error:
            raise JobRejected("internal", answer.error)
        return answer.children

    def _await(self, kind: type[T], progress: Callable[[int, int], None] | None = None) -> T:
        while True:
            self.check()
            message = self._supervisor.reply(timeout=0.1)
            if isinstance(message, kind):
                return message
            if isinstance(message, ChildrenProgress) and progress is not None:
                progress(message.done, message.total)
