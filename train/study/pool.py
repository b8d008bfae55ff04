"""Trainings in parallel on this machine, for studies without a service."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

from collegium.search.errors import InvalidSpec
from collegium.train.spec.training import TrainingSpec
from collegium.train.study.study import Progress

Outcome = dict[str, Any]


@dataclass(frozen=True)
class PoolOptions:
    """Device and data folders of each training, and how many ``threads`` each may use."""

    device: str = "cpu"
    data_dir: Path | None = None
    datasets_dir: Path | None = None
    threads: int = 1


class Pool:
    """A study's ``fan_out``: ``processes`` trainings at a time, each process kept for the next one."""

    def __init__(self, processes: int, options: PoolOptions | None = None) -> None:
        self._options = options or PoolOptions()
        self._executor = ProcessPoolExecutor(
            processes, get_context("spawn"), initializer=_bound_threads, initargs=(self._options.threads,)
        )

    def __call__(self, children: Sequence[dict[str, Any]], progress: Progress | None = None) -> list[Outcome]:
        """Outcomes in the order of ``children``; a training that fails does not raise."""
        futures = {
            self._executor.submit(train_one, child, self._options): index for index, child in enumerate(children)
        }
        outcomes: dict[int, Outcome] = {}
        for future in as_completed(futures):
            outcomes[futures[future]] = future.result()
            if progress is not None:
                progress(len(outcomes), len(futures))
        return [outcomes[index] for index in range(len(children))]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._executor.shutdown(cancel_futures=True)


def train_in_turn(
    children: Sequence[dict[str, Any]], progress: Progress | None = None, *, options: PoolOptions
) -> list[Outcome]:
    """A study's ``fan_out`` without processes: one training after the other, here."""
    outcomes: list[Outcome] = []
    for child in children:
        outcomes.append(train_one(child, options))
        if progress is not None:
            progress(len(outcomes), len(children))
    return outcomes


def train_one(child: dict[str, Any], options: PoolOptions) -> Outcome:
    """Train one child here; a failure becomes part of the outcome."""
    from collegium.train import engine

    outcome: Outcome = {"key": child["key"], "id": None, "status": "failed", "result": None, "failure": None}
    try:
        spec = TrainingSpec.model_validate(child["spec"])
        result = engine.run(spec, device=options.device, data_dir=options.data_dir, datasets_dir=options.datasets_dir)
    except Exception as error:  # one failed training must not lose the others
        kind = getattr(error, "kind", "invalid_spec" if isinstance(error, InvalidSpec) else "internal")
        tail = traceback.format_exc()[-2000:]
        failure = {"kind": kind, "message": str(error), "remedy": getattr(error, "remedy", ""), "log_tail": tail}
        return {**outcome, "failure": failure}
    return {**outcome, "status": "succeeded", "result": result}


def _bound_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)
