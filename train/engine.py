"""A training from its specification to its result: assemble, run the loops, collapse, measure, export."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from collegium.train.answer import package, result_of
from collegium.train.export import export
from collegium.train.launch import in_processes
from collegium.train.loop import Listener, Pace
from collegium.train.measure import scores_of
from collegium.train.phases import last_good, train_all
from collegium.train.runtime import Place, threads_for
from collegium.train.setting import Request, Setting, assemble, concrete
from collegium.train.spec import TrainingSpec

Report = Callable[[float, str], None]
Event = Callable[[str, dict[str, Any]], None]


def _silent(*_: Any) -> None:
    """Hear nothing."""


def run(
    spec: TrainingSpec,
    *,
    report: Report = _silent,
    event: Event = _silent,
    checkpoint_dir: Path | None = None,
    artifact_dir: Path | None = None,
    device: str = "cpu",
    data_dir: Path | None = None,
    datasets_dir: Path | None = None,
    search_result: Mapping[str, Any] | None = None,
    pace: Pace | None = None,
) -> dict[str, Any]:
    """Train, and return a :class:`~collegium.train.result.TrainingResult` as JSON-able values.

    ``report(fraction, message)`` hears how far the training is and may raise to stop it; ``event("metric", row)`` gets
    every epoch's figures and those of every ``metric_steps`` steps. With ``checkpoint_dir``, a killed training goes on
    where it was. ``device`` is ``cpu``, ``cpu:PROCESSES``, ``cuda``, ``cuda:1`` or ``cuda:0,1``. ``search_result`` is
    the finished search, with its ``spec`` and ``result``, where the architecture is a search's answer. ``pace`` says
    how often to report and to save.

    A training that is stopped, or that diverges, leaves its last good checkpoint in ``artifact_dir``. Raises
    ``InvalidSpec``, ``DataProblem``, or one of :mod:`collegium.train.problem`.
    """
    place = Place.parse(device)
    request = Request(
        concrete(spec, search_result), checkpoint_dir, artifact_dir, data_dir, datasets_dir, pace or Pace()
    )
    listener = Listener(report, event)
    fabric = place.fabric(request.spec.resolved_recipe().precision)
    if place.world > 1:
        return in_processes(execute, fabric, request, listener)
    return execute(fabric, request, listener)


def execute(fabric: Fabric, request: Request, listener: Listener) -> dict[str, Any]:
    """Train in this process, which may be one of several; the first one's result counts."""
    started = time.monotonic()
    tf32 = request.spec.resolved_recipe().precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    setting = assemble(request, fabric)
    first = setting.runtime.rank == 0
    try:
        with threads_for(setting.operations):
            trained = train_all(setting, listener)
    except BaseException:  # a stop, a divergence or a fault: it passes on, once what is there has been left
        if first:
            _leave_last_good(setting)
        raise
    result = result_of(setting, trained, scores_of(setting, trained.model), time.monotonic() - started)
    if request.artifact_dir is not None and first:
        left = package(setting, trained.model, result.metrics(trained.history), models=trained.models)
        artifacts = export(left, request.artifact_dir)
        result = result.model_copy(update={"artifacts": artifacts, "notes": tuple(setting.notes)})
    return result.model_dump(mode="json")


def _leave_last_good(setting: Setting) -> None:
    """Export what the last good checkpoint collapses to, for whoever stopped the training or saw it diverge."""
    folder, found = setting.request.artifact_dir, last_good(setting)
    if folder is not None and found is not None and setting.spec.formats:
        model, history = found
        export(package(setting, model, {"history": history}, formats=("safetensors",)), folder)
