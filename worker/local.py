"""A job on this machine alone, without a database: what it remembers lies in a folder, its children run beside it."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker import failures, protocol
from worker.channel import Channel
from worker.context import Child, Context, Outcome
from worker.process import ComputeProcess, Exited
from worker.protocol import Run

if TYPE_CHECKING:
    from worker.handlers import Handler


class LocalContext(Context):
    """A context that asks nobody. ``cache`` keeps estimates between jobs; ``processes`` compute children at once."""

    def __init__(
        self,
        run: Run,
        channel: Channel,
        handlers: Mapping[str, Handler],
        *,
        cache: Path | None,
        processes: int,
        arguments: Sequence[str],
    ) -> None:
        super().__init__(run, channel)
        self._run = run
        self._handlers = handlers
        self._cache = cache
        self._helpers = [_Helper(arguments) for _ in range(processes - 1)]

    def known(self, key: str) -> dict[str, Any] | None:
        """The estimate that an earlier job left in the folder."""
        if key in self._given or self._cache is None:
            return self._given.get(key)
        try:
            return json.loads(self._place(self._cache, key).read_text())
        except (OSError, ValueError):
            return None

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep an estimate in the folder."""
        self._given[key] = dict(value)
        if self._cache is None:
            return
        self._cache.mkdir(parents=True, exist_ok=True)
        place = self._place(self._cache, key)
        written = place.with_suffix(f".{os.getpid()}.part")
        written.write_text(json.dumps(protocol.finite(dict(value))))
        written.replace(place)

    def look_up(self, job: str) -> dict[str, Any] | None:
        """Nobody keeps jobs here."""
        return None

    def fan_out(self, children: Sequence[Child], progress: Callable[[int, int], None] | None = None) -> list[Outcome]:
        """Run the children here, in this process and in others beside it."""
        waiting: queue.SimpleQueue[tuple[int, Child]] = queue.SimpleQueue()
        for item in enumerate(children):
            waiting.put(item)
        outcomes: list[Outcome | None] = [None] * len(children)
        threads = [
            threading.Thread(target=helper.work, args=(self._run, waiting, outcomes), daemon=True)
            for helper in self._helpers[: max(0, len(children) - 1)]
        ]
        for thread in threads:
            thread.start()
        while (item := _next(waiting)) is not None:
            index, child = item
            outcomes[index] = self._run_here(index, child)
            if progress is not None:
                progress(sum(outcome is not None for outcome in outcomes), len(children))
        while any(thread.is_alive() for thread in threads):
            self.check()
            threads[0].join(0.05) if threads[0].is_alive() else threads.pop(0)
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """End the processes beside this one."""
        for helper in self._helpers:
            helper.close()

    def _run_here(self, index: int, child: Child) -> Outcome:
        self.check()
        run = _part(self._run, index, child)
        try:
            result = self._handlers[child["kind"]](child["spec"], _Silent(run, self._channel))
            return _outcome(index, child, protocol.Result(result))
        except Exception as error:
            cause = failures.from_exception(error)
            return _outcome(index, child, protocol.Failure(cause.kind, cause.message, cause.remedy))

    @staticmethod
    def _place(cache: Path, key: str) -> Path:
        return cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


class _Silent(Context):
    """A child in its parent's process: it can be stopped, but the progress that is shown is the parent's."""

    def report(self, fraction: float, message: str = "") -> None:
        """Only look whether to stop."""
        self.check()

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Only look whether to stop."""
        self.check()


class _Helper:
    """A process beside this one, started when there is something for it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._process: ComputeProcess | None = None

    def work(self, parent: Run, waiting: queue.SimpleQueue[tuple[int, Child]], outcomes: list[Outcome | None]) -> None:
        """Run waiting children until there are none."""
        if self._process is None or not self._process.running:
            self._process = ComputeProcess(self._arguments)
        while self._process.running and (item := _next(waiting)) is not None:
            index, child = item
            self._process.send(_part(parent, index, child))
            outcomes[index] = _outcome(index, child, self._last_word(self._process))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()

    @staticmethod
    def _last_word(process: ComputeProcess) -> protocol.Message:
        while True:
            match process.inbox.get():
                case protocol.Result() | protocol.Failure() as word:
                    return word
                case Exited(returncode):
                    cause = failures.from_exit(returncode, killed_for_memory=False)
                    return protocol.Failure(cause.kind, cause.message, cause.advice)


def _part(parent: Run, index: int, child: Child) -> Run:
    folder = Path(parent.workdir) / f"child-{index}"
    return Run(
        job=f"{parent.job}-{index}",
        kind=child["kind"],
        spec=dict(child["spec"]),
        workdir=str(folder),
        checkpoint_dir=str(folder / "checkpoints"),
        data_dir=parent.data_dir,
        datasets_dir=parent.datasets_dir,
        device=parent.device,
        threads=1,
        environment=parent.environment,
    )


def _next(waiting: queue.SimpleQueue[tuple[int, Child]]) -> tuple[int, Child] | None:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


def _outcome(index: int, child: Child, word: protocol.Message) -> Outcome:
    succeeded = isinstance(word, protocol.Result)
    failure = None
    if isinstance(word, protocol.Failure):
        failure = {"kind": word.kind, "message": word.message, "remedy": word.remedy, "log_tail": ""}
    return {
        "key": child["key"],
        "id": f"part-{index}",
        "status": "succeeded" if succeeded else "failed",
        "result": word.result if succeeded else None,
        "failure": failure,
    }
