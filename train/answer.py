"""The result of a training, and the package that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from collegium.train.package import Package
from collegium.train.phases import Trained, parameters
from collegium.train.result import Scores, TrainingResult
from collegium.train.setting import Setting
from collegium.train.versions import versions


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
