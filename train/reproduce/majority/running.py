"""Runs what the plan wants, as many trainings at a time as there are processes, and keeps each as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from collegium.train.reproduce.majority.plan import Unit, next_trainings
from collegium.train.reproduce.majority.records import Records
from collegium.train.reproduce.majority.training import Training, run

Told = Callable[[Training, dict[str, Any]], None]


class Here:
    """An executor of one training at a time, in this process."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The finished future of ``function(*arguments)``; what it raises is raised here."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


def run_all(
    units: Sequence[Unit], records: Records, data_dir: Path, *, processes: int, seconds: float, told: Told
) -> bool:
    """Train until nothing is wanted, or no more after ``seconds``; whether nothing is left.

    ``told(training, row)`` is called when a row has been kept. A training that fails other than by diverging ends the
    study with its error, once those beside it have ended and are kept.
    """
    deadline = time.monotonic() + seconds
    running: dict[Future[dict[str, Any]], Training] = {}
    failure: Exception | None = None
    with _executor(processes) as executor:
        try:
            while True:
                if failure is None and time.monotonic() < deadline:
                    busy = [training.key for training in running.values()]
                    for training in next_trainings(units, records, busy, processes - len(running)):
                        running[executor.submit(run, training, data_dir)] = training
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    training = running.pop(future)
                    try:
                        row = future.result()
                    except Exception as error:
                        failure = failure or error
                        continue
                    records.append(row)
                    told(training, row)
        finally:
            for future in running:
                future.cancel()
    if failure is not None:
        raise failure
    return all(unit.complete(records) for unit in units)


def _executor(processes: int) -> AbstractContextManager[Executor | Here]:
    if processes == 1:
        return nullcontext(Here())
    return ProcessPoolExecutor(processes, get_context("spawn"))
