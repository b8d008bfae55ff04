"""What a handler is given: its place, its device, and a way to be heard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from collegium.worker import protocol
from collegium.worker.compute.channel import Channel
from collegium.worker.failures import Rejected
from collegium.worker.protocol import FanIn, FanInProgress, FanOut, JobInfo, JobQuery, Known, KnownQuery, Remember, Run

T = TypeVar("T", bound=protocol.Message)
REPORT_INTERVAL_S = 0.05
Child = Mapping[str, Any]
Outcome = dict[str, Any]


class Cancelled(BaseException):
    """The job was told to stop. Not an ``Exception``: only who must clean up stands in its way."""


class Context:
    """One job as its handler sees it.

    ``workdir`` is this attempt's own; what lies in ``artifact_dir`` when the job ends, however it ends, is published
    (names that begin with a dot are not, so write there under such a name and rename). ``checkpoint_dir`` survives
    attempts. ``data_dir`` holds published data sets, ``datasets_dir`` those that users sent. ``divides`` says whether
    others may compute children at the same time, so that it pays to have some.
    """

    divides = True

    def __init__(self, run: Run, channel: Channel) -> None:
        self.job = run.job
        self.attempt = run.attempt
        self.device = run.device
        self.workdir = Path(run.workdir)
        self.artifact_dir = self.workdir / "artifacts"
        self.checkpoint_dir = Path(run.checkpoint_dir)
        self.data_dir = Path(run.data_dir)
        self.datasets_dir = Path(run.datasets_dir)
        self._given = dict(run.known)
        self._channel = channel
        self._last_report = -math.inf

    def check(self) -> None:
        """Raise ``Cancelled`` if the job was told to stop."""
        if self._channel.cancelled.is_set():
            raise Cancelled

    def report(self, fraction: float, message: str = "") -> None:
        """Say how far the job is; cheap enough for an inner loop. Raises ``Cancelled``."""
        self.check()
        now = time.monotonic()
        if now - self._last_report < REPORT_INTERVAL_S and fraction < 1:
            return
        self._last_report = now
        fraction = min(1.0, max(0.0, float(fraction))) if math.isfinite(fraction) else 0.0
        self._channel.send(protocol.Progress(fraction, message))

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Add a ``metric`` or a ``log`` entry to the job's history. Raises ``Cancelled``."""
        self.check()
        self._channel.send(protocol.Event(event_type, dict(data)))

    def known(self, key: str) -> dict[str, Any] | None:
        """The estimate stored under ``key`` by any earlier job."""
        if key not in self._given:
            self._channel.send(KnownQuery(key))
            answer = self._answer(Known)
            if answer.value is None:
                return None
            self._given[key] = answer.value
        return self._given[key]

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        """Store an estimate for later jobs."""
        self._given[key] = dict(value)
        self._channel.send(Remember(key, dict(value)))

    def look_up(self, job: str) -> dict[str, Any] | None:
        """Another job as ``{id, kind, status, spec, result}``, or None."""
        self._channel.send(JobQuery(job))
        return self._answer(JobInfo).job

    def fan_out(self, children: Sequence[Child], progress: Callable[[int, int], None] | None = None) -> list[Outcome]:
        """Run ``children`` as jobs of their own, here and on other workers, and wait for all of them.

        A child is ``{key, kind, spec}``; its key, unique within this job, makes a second attempt find what the first
        one left. Outcomes ``{key, id, status, result, failure}`` come in the order of ``children``; a child that
        failed does not raise. Raises ``Cancelled``.
        """
        if not children:
            return []
        self._channel.send(FanOut([dict(child) for child in children]))
        answer = self._answer(FanIn, progress)
        if answer.error:
            raise Rejected("internal", answer.error)
        return answer.children

    def _answer(self, kind: type[T], progress: Callable[[int, int], None] | None = None) -> T:
        while True:
            self.check()
            message = self._channel.reply(timeout=0.1)
            if isinstance(message, kind):
                return message
            if isinstance(message, FanInProgress) and progress is not None:
                progress(message.done, message.total)
