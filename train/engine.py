"""A training from its specification to its result: assemble, run the loops, collapse, measure, export."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from collegium.train.export.bundle import export
from collegium.train.export.package import Package
from collegium.train.loop.context import Request, Setting, assemble, concrete
from collegium.train.loop.launch import in_processes
from collegium.train.loop.loop import Listener, Pace
from collegium.train.loop.phases import Trained, last_good, parameters, scores_of, train_all
from collegium.train.loop.runtime import Place, float32_as, threads_for
from collegium.train.result import Scores, TrainingResult
from collegium.train.spec.training import TrainingSpec
from collegium.train.versions import versions

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
    ``InvalidSpec``, ``DataError``, or one of :mod:`collegium.train.errors`.
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
    with float32_as(request.spec.resolved_recipe().precision):
        return _execute(fabric, request, listener)


def _execute(fabric: Fabric, request: Request, listener: Listener) -> dict[str, Any]:
    started = time.monotonic()
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


def result_of(setting: Setting, trained: Trained, scores: Scores, seconds: float) -> TrainingResult:
    """Everything that is known of a finished training but what it left."""
    spec, position, members = setting.spec, trained.loop.position, setting.members
    speeds = [row["images_per_second"] for row in position.history]
    diagnostics = trained.diagnostics
    if "gap" in spec.diagnostics:
        gaps = {
            "loss_gap": scores.loss.test - scores.loss.train,
            "accuracy_gap": scores.accuracy.train - scores.accuracy.test,
        }
        diagnostics = diagnostics.model_copy(update=gaps)
    return TrainingResult(
        accuracy=scores.accuracy,
        top5=scores.top5,
        loss=scores.loss,
        sampled=trained.sampled,
        method=spec.method,
        expansion=trained.method.expansion,
        models=trained.models,
        parameters=parameters(trained.model) // trained.models,
        trained_parameters=trained.trained_parameters,
        multiplicity=None if members is None else members.multiplicity,
        widths=None if members is None else members.widths,
        architecture=_architecture(setting),
        data=_data(setting),
        recipe=setting.runtime.recipe,
        epochs=position.epoch,
        steps=trained.loop.step,
        best_epoch=position.best_epoch,
        seed=spec.seed,
        seconds=seconds,
        samples_per_second=sum(speeds) / max(1, len(speeds)),
        diagnostics=diagnostics if spec.diagnostics else None,
        notes=tuple(setting.notes),
        device=_device_name(setting.runtime.device),
        versions=versions(),
    )


def package(
    setting: Setting,
    model: nn.Module,
    metrics: Mapping[str, Any],
    *,
    models: int = 1,
    formats: tuple[str, ...] | None = None,
) -> Package:
    """What is exported: a collapsed model with all that is known of it."""
    spec = setting.spec
    architecture = _architecture(setting)
    description = {
        "title": f"{architecture['title']} on {spec.data.name}",
        "architecture": architecture,
        "parameters": parameters(model) // models,
        "models": models,
        "data": _data(setting),
        "method": spec.method,
        "recipe": setting.runtime.recipe.model_dump(mode="json"),
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "versions": versions(),
    }
    asked = spec.formats if formats is None else formats
    return Package(model, setting.blueprint, setting.data, description, metrics, asked, setting.notes)


def _architecture(setting: Setting) -> dict[str, Any]:
    if setting.members is not None:
        return setting.members.describe()
    fields = setting.spec.architecture.model_dump(mode="json", exclude_none=True)
    return {"family": "transformer", "title": fields["transformer"], **fields}


def _data(setting: Setting) -> dict[str, Any]:
    data = setting.data
    return {"name": data.name, "kind": data.kind, "shape": list(data.shape), "classes": data.classes, **data.summary}


def _device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
