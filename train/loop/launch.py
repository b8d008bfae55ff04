"""A training in several processes of one machine, with the callbacks of one process.

The first process's reports and events come back through a queue. When the callback raises, an event is set, that
process raises at its next report, and the launcher ends the others. Events that were sent until then are passed on.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.multiprocessing as processes
from lightning_fabric import Fabric

from collegium.search.errors import InvalidSpec
from collegium.search.progress import discard
from collegium.train.errors import TrainingError
from collegium.train.loop.callback import TrainingCallback, discard_event, settled
from collegium.train.loop.context import TrainingRequest

Execute = Callable[[Fabric, TrainingRequest, TrainingCallback], dict[str, Any]]
POLL_SECONDS = 0.1


class Stopped(Exception):
    """The callback in the launching process raised, so the training stops."""


def in_processes(
    execute: Execute, fabric: Fabric, request: TrainingRequest, callback: TrainingCallback
) -> dict[str, Any]:
    """Run ``execute`` in every process that ``fabric`` names, and return what the first one returns.

    Raises what the callback or the first process raised.
    """
    import threading

    spawning = processes.get_context("spawn")
    messages, stop, recorded = spawning.Queue(), spawning.Event(), spawning.Event()
    outcome: dict[str, Any] = {}

    def launch() -> None:
        try:
            # Bound, because Fabric takes arguments apart, which frozen dataclasses do not let it do.
            work = partial(_work, execute=execute, request=request, messages=messages, stop=stop, recorded=recorded)
            fabric.launch(work)
        except BaseException as error:  # handed to the caller's thread, which raises it
            outcome["launch"] = error

    thread = threading.Thread(target=launch, name="training-processes")
    thread.start()
    raised = _forward(thread, messages, stop, recorded, callback, outcome)
    thread.join()
    if raised is not None:
        raise raised
    if "failure" in outcome:
        raise _rebuilt(*outcome["failure"])
    if "launch" in outcome:
        raise outcome["launch"]
    return outcome["result"]


def _rebuilt(kind: type[Exception], text: str, attributes: dict[str, Any]) -> Exception:
    """An exception from another process; most do not survive pickling, as their arguments are not their text."""
    error = kind.__new__(kind, text)
    error.__dict__.update(attributes)
    return error


def _forward(
    thread: Any, messages: Any, stop: Any, recorded: Any, callback: TrainingCallback, outcome: dict[str, Any]
) -> BaseException | None:
    """Pass messages to the callback until the processes end; returns what the callback raised."""
    raised: BaseException | None = None
    while thread.is_alive() or not messages.empty():
        try:
            kind, *content = messages.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if kind in ("result", "failure"):
            outcome[kind] = content[0]
        elif raised is None or kind != "report":  # the checkpoint that a stopped training leaves is behind all events
            try:
                getattr(callback, kind)(*content)
            except BaseException as error:  # re-raised once the processes have ended
                raised = raised or error
                stop.set()
            if kind == "settle":
                recorded.set()
    return raised


def _work(fabric: Fabric, execute: Execute, request: TrainingRequest, messages: Any, stop: Any, recorded: Any) -> None:
    def report(fraction: float, message: str) -> None:
        if stop.is_set():
            raise Stopped
        messages.put(("report", fraction, message))

    def settle() -> None:
        recorded.clear()
        messages.put(("settle",))
        recorded.wait()

    first = fabric.global_rank == 0
    callback = TrainingCallback(
        report if first else discard,
        (lambda kind, row: messages.put(("event", kind, row))) if first else discard_event,
        settle if first else settled,
    )
    try:
        result = execute(fabric, request, callback)
    except (InvalidSpec, TrainingError, ValueError) as error:
        if first:
            messages.put(("failure", (type(error), str(error), vars(error))))
        raise
    if first:
        messages.put(("result", result))
