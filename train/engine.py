"""A training from its specification to its result: assemble, run the loops, collapse, measure, export."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from collegium.search.progress import Report, discard
from collegium.train.effects import remarks
from collegium.train.export.bundle import export
from collegium.train.export.package import Package
from collegium.train.limits import check_processes
from collegium.train.loop.callback import Event, Settle, TrainingCallback, discard_event, settled
from collegium.train.loop.context import TrainingContext, TrainingRequest, assemble
from collegium.train.loop.launch import in_processes
from collegium.train.loop.loop import Pace
from collegium.train.loop.phases import Trained, last_good, parameters, scores_of, train_all
from collegium.train.loop.runtime import DeviceLayout, float32_as, threads_for
from collegium.train.models.grouping import GroupedNetwork
from collegium.train.result import Note, Scores, StageMembers, TrainingResult
from collegium.train.spec.training import TrainingSpec
from collegium.versions import versions

#: Distributions on which a training's result depends.
PACKAGES = ("torch", "numpy", "safetensors", "lightning-fabric", "scikit-learn", "transformers")


def run(
    spec: TrainingSpec,
    *,
    report: Report = discard,
    event: Event = discard_event,
    settle: Settle = settled,
    checkpoint_dir: Path | None = None,
    artifact_dir: Path | None = None,
    device: str = "cpu",
    data_dir: Path | None = None,
    datasets_dir: Path | None = None,
    pace: Pace | None = None,
) -> dict[str, Any]:
    """Train, and return a :class:`~collegium.train.result.TrainingResult` as JSON-able values.

    ``report(fraction, message)`` is called with the progress and may raise to stop the training; ``event("metric",
    row)`` with the metrics of every epoch and of every ``metric_steps`` steps; ``settle()``, before a checkpoint is
    saved, returns when all rows so far are recorded. With ``checkpoint_dir``, a killed training resumes where it was.
    ``device`` is ``cpu``, ``cpu:PROCESSES``, ``cuda``, ``cuda:1`` or ``cuda:0,1``.
    ``pace`` sets how often progress is reported and a checkpoint saved. An architecture that is a search's answer has
    been replaced by that answer before (:func:`~collegium.train.models.grouping.architecture_from_search`).

    A training that is stopped, or that diverges, leaves its last good checkpoint in ``artifact_dir``. Raises
    ``InvalidSpec``, or a ``TrainingError`` of :mod:`collegium.train.errors`.
    """
    layout = DeviceLayout.parse(device)
    check_processes(spec.merged_recipe(), layout.world)
    request = TrainingRequest(spec, checkpoint_dir, artifact_dir, data_dir, datasets_dir, pace or Pace())
    callback = TrainingCallback(report, event, settle)
    fabric = layout.fabric(request.spec.merged_recipe().precision)
    if layout.world > 1:
        return in_processes(execute, fabric, request, callback)
    return execute(fabric, request, callback)


def execute(fabric: Fabric, request: TrainingRequest, callback: TrainingCallback) -> dict[str, Any]:
    """Train in this process, which may be one of several; the first one's result counts."""
    with float32_as(request.spec.merged_recipe().precision):
        return _execute(fabric, request, callback)


def _execute(fabric: Fabric, request: TrainingRequest, callback: TrainingCallback) -> dict[str, Any]:
    started = time.monotonic()
    context = assemble(request, fabric)
    first = context.runtime.rank == 0
    try:
        with threads_for(context.operations):
            trained = train_all(context, callback)
    except BaseException:  # a stop, a divergence or a fault: re-raised once the last checkpoint is exported
        if first:
            _leave_last_good(context)
        raise
    context.notes += _without_effect(context, trained)
    scores = scores_of(context, trained.model)
    result = result_of(context, trained, scores, trained.seconds_before + time.monotonic() - started)
    if request.artifact_dir is not None and first:
        left = package(context, trained.model, result.metrics(trained.history), models=trained.models)
        artifacts = export(left, request.artifact_dir)
        result = result.model_copy(update={"artifacts": artifacts, "notes": tuple(context.notes)})
    return result.model_dump(mode="json")


def _without_effect(context: TrainingContext, trained: Trained) -> list[Note]:
    """What the specification asks for and this training has not, though nothing is wrong by it."""
    spec, recipe = context.spec, context.runtime.recipe
    missing = [
        name
        for name in ("sharpness", "spread")
        if name in spec.diagnostics and getattr(trained.diagnostics, name) is None
    ]
    if recipe.sharpness_every and not any("sharpness" in row for rows in trained.history.values() for row in rows):
        missing.append("sharpness_every")
    notes = []
    if missing:
        message = f"{spec.method} trains no copies of kernels, of which {' and '.join(missing)} would be measured."
        notes.append(Note(kind="no_copies", message=message))
    if recipe.augment and context.data.kind != "image":
        message = f"{context.data.name} has no images: augment of the recipe {spec.recipe_name} has no effect."
        notes.append(Note(kind="not_augmented", message=message))
    notes += [Note(kind="without_effect", message=message) for message in remarks(recipe)]
    notes += [Note(kind="without_effect", message=message) for message in _of_this_run(context, trained)]
    return notes


def _of_this_run(context: TrainingContext, trained: Trained) -> Iterator[str]:
    """What is known without effect once the samples are counted and the device is there."""
    recipe, data, loop = context.runtime.recipe, context.spec.data, trained.loop
    best = loop.position.best_epoch if recipe.patience else None
    yield from trained.method.remarks(loop.step if best is None else best * loop.batches.steps)
    if recipe.warmup_epochs > 0 and round(recipe.warmup_epochs * loop.batches.steps) < 2:
        yield f"A warm-up of {recipe.warmup_epochs:g} epochs has less than two steps: the rate is the full one at once."
    if recipe.precision == "tf32" and context.runtime.device.type == "cpu":
        yield "A processor has no TF32: products were those of fp32."
    samples = len(context.data.train) + (0 if context.data.validation is None else len(context.data.validation))
    if data.limit is not None and samples < data.limit:
        yield f"A limit of {data.limit} keeps all of the {samples} training samples."
    if data.test_limit is not None and len(context.data.test) < data.test_limit:
        yield f"A test_limit of {data.test_limit} keeps all of the {len(context.data.test)} test samples."


def _leave_last_good(context: TrainingContext) -> None:
    """Export what the last good checkpoint of a training that was stopped or diverged collapses to."""
    folder, found = context.request.artifact_dir, last_good(context)
    if folder is not None and found is not None and context.spec.formats:
        model, history = found
        export(package(context, model, {"history": history}, formats=("safetensors",)), folder)


def result_of(context: TrainingContext, trained: Trained, scores: Scores, seconds: float) -> TrainingResult:
    """The result of a finished training, its artifacts excepted."""
    spec, position, ensemble = context.spec, trained.loop.position, context.ensemble
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
        multiplicity=None if ensemble is None else ensemble.multiplicity,
        widths=None if ensemble is None else ensemble.widths,
        stages=None if ensemble is None else stage_members(ensemble),
        architecture=_architecture(context),
        data=_data(context),
        recipe=context.runtime.recipe,
        recipe_name=spec.recipe_name,
        epochs=position.epoch,
        steps=trained.loop.step,
        best_epoch=position.best_epoch,
        seed=spec.seed,
        seconds=seconds,
        samples_per_second=sum(speeds) / max(1, len(speeds)),
        diagnostics=diagnostics if spec.diagnostics else None,
        notes=tuple(context.notes),
        device=_device_name(context.runtime.device),
        versions=versions(*PACKAGES),
    )


def stage_members(ensemble: GroupedNetwork) -> tuple[StageMembers, ...] | None:
    """The members of each stage; None where one m × n gives them all."""
    own = ensemble.own_stages
    return None if own is None else tuple(StageMembers(widths=s.widths, multiplicity=s.multiplicity) for s in own)


def package(
    context: TrainingContext,
    model: nn.Module,
    metrics: Mapping[str, Any],
    *,
    models: int = 1,
    formats: tuple[str, ...] | None = None,
) -> Package:
    """What is exported: a collapsed model and its description."""
    spec = context.spec
    architecture = _architecture(context)
    description = {
        "title": f"{architecture['title']} on {spec.data.name}",
        "architecture": architecture,
        "parameters": parameters(model) // models,
        "models": models,
        "data": _data(context),
        "method": spec.method,
        "recipe": context.runtime.recipe.model_dump(mode="json"),
        "recipe_name": spec.recipe_name,
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "versions": versions(*PACKAGES),
    }
    chosen = spec.formats if formats is None else formats
    return Package(model, context.blueprint, context.data, description, metrics, chosen, context.notes)


def _architecture(context: TrainingContext) -> dict[str, Any]:
    if context.ensemble is not None:
        return context.ensemble.describe()
    fields = context.spec.architecture.model_dump(mode="json", exclude_none=True)
    return {"family": "transformer", "title": fields["transformer"], **fields}


def _data(context: TrainingContext) -> dict[str, Any]:
    data = context.data
    return {"name": data.name, "kind": data.kind, "shape": list(data.shape), "classes": data.classes, **data.summary}


def _device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
