"""A job on this machine alone, without a database: estimates are kept in a folder, children run in its process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collegium.jobs.record import check_writable
from collegium.worker import failures, protocol
from collegium.worker.compute.connection import SupervisorConnection
from collegium.worker.compute.context import ChildOutcome, ChildSpec, Context
from collegium.worker.protocol import Run

if TYPE_CHECKING:
    from collegium.worker.compute.handlers import Handler


class LocalContext(Context):
    """A context without a store. ``cache`` is the folder that keeps estimates between jobs; None keeps none."""

    divides = False

    def __init__(
        self, run: Run, supervisor: SupervisorConnection, handlers: Mapping[str, Handler], cache: Path | None
    ) -> None:
        super().__init__(run, supervisor)
        self._run = run
        self._handlers = handlers
        self._cache = cache

    def get_estimate(self, key: str) -> dict[str, Any] | None:
        """The estimate that an earlier job left in the folder."""
        if key in self._estimates or self._cache is None:
            return self._estimates.get(key)
        try:
            return json.loads(_estimate_path(self._cache, key).read_text())
        except (OSError, ValueError):
            return None

    def put_estimate(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep an estimate in the folder, where that can be written: a job does not fail for it."""
        self._estimates[key] = dict(value)
        if self._cache is None:
            return
        path = _estimate_path(self._cache, key)
        written = path.with_suffix(f".{os.getpid()}.part")
        text = json.dumps(protocol.finite(dict(value)))
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            written.write_text(text)
            written.replace(path)
        except OSError:
            with suppress(OSError):
                written.unlink()

    def settle(self) -> None:
        """Nothing: there is no second attempt."""

    def fan_out(
        self, children: Sequence[ChildSpec], progress: Callable[[int, int], None] | None = None
    ) -> list[ChildOutcome]:
        """Run the children one after another."""
        outcomes = []
        for index, child in enumerate(children):
            self.check()
            outcomes.append(self._run_child(index, child))
            if progress is not None:
                progress(index + 1, len(children))
        return outcomes

    def _run_child(self, index: int, child: ChildSpec) -> ChildOutcome:
        outcome: ChildOutcome = {"key": child["key"], "id": f"child-{index}", "result": None, "failure": None}
        folder = self.workdir / outcome["id"]
        run = replace(
            self._run,
            kind=child["kind"],
            spec=dict(child["spec"]),
            workdir=str(folder),
            checkpoint_dir=str(folder / "checkpoints"),
        )
        context = _ChildContext(run, self._supervisor, self._handlers, self._cache)
        for directory in (context.artifact_dir, context.checkpoint_dir):
            directory.mkdir(parents=True, exist_ok=True)
        try:
            return outcome | {"status": "succeeded", "result": self._handlers[run.kind](run.spec, context)}
        except Exception as error:
            cause = failures.from_exception(error)
            failure = {"kind": cause.kind, "message": cause.message, "remedy": cause.advice, "log_tail": ""}
            return outcome | {"status": "failed", "failure": failure}


class _ChildContext(LocalContext):
    """A child within its parent's process: it can be stopped; the progress that is shown is the parent's."""

    def report(self, fraction: float, message: str = "") -> None:
        """Only check whether to stop."""
        self.check()

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Only check the type, and whether to stop."""
        self.check()
        check_writable(event_type)


def _estimate_path(cache: Path, key: str) -> Path:
    return cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
