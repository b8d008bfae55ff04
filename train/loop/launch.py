"""A training in several processes of one machine, heard and stopped as if it ran in this one.

The first process's reports and events come back through a queue; when the listener raises, that process is told so,
raises at its next report, and the launcher ends the others.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.multiprocessing as processes
from lightning_fabric import Fabric

from collegium.train.errors import TrainingError
from collegium.train.loop.context import Request
from collegium.train.loop.loop import Listener

Execute = Callable[[Fabric, Request, Listener], dict[str, Any]]
POLL_SECONDS = 0.1


class Stopped(Exception):
    """Whoever listens wants the training stopped."""


def in_processes(execute: Execute, fabric: Fabric, request: Request, listener: Listener) -> dict[str, Any]:
    """Run ``execute`` in every process that ``fabric`` names, and return what the first one returns.

    Raises what the listener or the first process raised.
    """
    import threading

    context = processes.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    outcome: dict[str, Any] = {}

    def launch() -> None:
        try:
            # Bound, because Fabric takes arguments apart, which frozen dataclasses do not let it do.
            fabric.launch(partial(_work, execute=execute, request=request, messages=messages, stop=stop))
        except BaseException as error:  # handed to the caller's thread, which raises it
            outcome["launch"] = error

    thread = threading.Thread(target=launch, name="training-processes")
    thread.start()
    heard = _listen(thread, messages, stop, listener, outcome)
    thread.join()
    if heard is not None:
        raise heard
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


def _listen(thread: Any, messages: Any, stop: Any, listener: Listener, outcome: dict[str, Any]) -> BaseException | None:
    raised: BaseException | None = None
    while thread.is_alive() or not messages.empty():
        try:
            kind, *content = messages.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if kind in ("result", "failure"):
            outcome[kind] = content[0]
        elif raised is None:
            try:
                (listener.report if kind == "report" else listener.event)(*content)
            except BaseException as error:  # whatever stops a training stops its processes first
                raised = error
                stop.set()
    return raised


def _work(fabric: Fabric, execute: Execute, request: Request, messages: Any, stop: Any) -> None:
    def report(fraction: float, message: str) -> None:
        if stop.is_set():
            raise Stopped
        messages.put(("report", fraction, message))

    first = fabric.global_rank == 0
    listener = Listener(
        report if first else lambda fraction, message: None,
        (lambda kind, row: messages.put(("event", kind, row))) if first else lambda kind, row: None,
    )
    try:
        result = execute(fabric, request, listener)
    except (TrainingError, ValueError) as problem:
        if first:
            messages.put(("failure", (type(problem), str(problem), vars(problem))))
        raise
    if first:
        messages.put(("result", result))
