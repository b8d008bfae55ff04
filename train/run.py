"""A training, a study or a module in one call, for programs. Nothing here loads torch until it is used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from collegium.search.parse import parse_spec
from collegium.search.progress import Report, discard
from collegium.train.data.catalog import known_sample
from collegium.train.data.format import Folders
from collegium.train.loop.callback import Event, discard_event
from collegium.train.result import StudyResult, TrainingResult
from collegium.train.spec.architecture import BaselineArchitecture
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

if TYPE_CHECKING:
    from torch import nn


def run_training(
    spec: TrainingSpec | Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    report: Report | None = None,
    event: Event | None = None,
    device: str = "cpu",
    data_dir: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
) -> TrainingResult:
    """Train an architecture on this machine; its metrics, and in ``folder`` what loads in plain PyTorch.

    ``folder`` receives the weights, ``load.py``, a model card and ``metrics.json``; without it the trained weights are
    discarded. ``report(fraction, message)`` is called as the training advances, and ends it by raising;
    ``event("metric", row)`` receives the metrics of every epoch. ``device`` is ``cpu``, ``cuda``, ``cuda:1`` or, for
    several processes, ``cpu:2`` or ``cuda:0,1``. Published data sets are read from ``data_dir``. With
    ``checkpoint_dir``, a training that was interrupted continues where it was, and ends in the same weights on a CPU.

    Raises ``InvalidSpec`` with the path of a field that is wrong, and ``TrainingError`` (data that cannot be read, a
    loss that diverges, an extra that is not installed) with a remedy.

    >>> from collegium import run_training
    >>> result = run_training(
    ...     {
    ...         "architecture": {"baseline": {"family": "mlp", "inputs": 64, "hidden": [32, 32], "outputs": 10}},
    ...         "method": "majority",
    ...         "data": "digits",
    ...         "recipe": {"epochs": 10},
    ...     }
    ... )
    >>> result.accuracy.test > 0.5
    True
    """
    from collegium.train.effects import check_effects
    from collegium.train.engine import run

    parsed = spec if isinstance(spec, TrainingSpec) else parse_spec(TrainingSpec, spec)
    check_effects(parsed, known_sample(parsed.data, Folders(_path(data_dir))))
    found = run(
        parsed,
        report=report or discard,
        event=event or discard_event,
        checkpoint_dir=_path(checkpoint_dir),
        artifact_dir=_path(folder),
        device=device,
        data_dir=_path(data_dir),
    )
    return TrainingResult.model_validate(found)


def run_study(
    spec: StudySpec | Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    processes: int = 1,
    report: Report | None = None,
    device: str = "cpu",
    data_dir: str | Path | None = None,
) -> StudyResult:
    """Compare architectures and methods over seeds on this machine, ``processes`` trainings at a time.

    ``folder`` receives the table as JSON, Markdown and CSV, and a plot. Several processes are started anew, so a script
    that asks for them calls this below ``if __name__ == "__main__":``. A training that fails is missing from its cell
    and counted in ``failed``. Raises ``InvalidSpec`` with the path of a field that is wrong.

    >>> from collegium import run_study
    >>> mlp = {"baseline": {"family": "mlp", "inputs": 16, "hidden": [8, 8], "outputs": 10}}
    >>> study = {"architectures": [{"name": "mlp", "architecture": mlp}], "data": "synthetic", "seeds": 2}
    >>> run_study(study | {"recipes": [{"name": "short", "recipe": {"epochs": 1}}]}).trainings
    2
    """
    from collegium.train.limits import check_study_cost
    from collegium.train.study.pool import Pool, PoolOptions, train_in_turn
    from collegium.train.study.study import run

    parsed = spec if isinstance(spec, StudySpec) else parse_spec(StudySpec, spec)
    check_study_cost(parsed)
    options = PoolOptions(device, _path(data_dir))
    here = nullcontext(partial(train_in_turn, options=options))
    with here if processes == 1 else Pool(processes, options) as fan_out:
        return StudyResult.model_validate(
            run(parsed, fan_out=fan_out, artifact_dir=_path(folder), report=report or discard)
        )


def build_model(architecture: str | Mapping[str, Any] | BaseModel, *, seed: int = 0) -> nn.Module:
    """The module of an architecture in plain PyTorch, initialized from ``seed``, for a training loop of one's own.

    ``architecture`` is the name of a preset, or what a training takes: a ``baseline`` with the ``widths`` (or tied
    ``width``) and the ``multiplicity`` of a search's answer, or with ``stages`` that have them for each stage
    (``SolvedEnsemble.grouping`` has whichever the answer is made of).
    Collegial ensembles are one module: grouped convolutions or batched linear layers, outputs summed and scaled by
    m^{-1/2} (Littwin et al. 2020, Eq. 4).
    Raises ``InvalidSpec`` with the path of a field that is wrong.

    >>> from collegium import build_model, find_ensemble
    >>> baseline = {"family": "mlp", "inputs": 64, "hidden": [100, 100, 100], "outputs": 10}
    >>> primal = find_ensemble(baseline).primal
    >>> model = build_model({"baseline": baseline, **primal.grouping})
    >>> sum(parameter.numel() for parameter in model.parameters()) == primal.parameters
    True
    """
    from collegium.train.models.build import blueprint
    from collegium.train.models.grouping import group_network

    if isinstance(architecture, BaselineArchitecture):
        parsed = architecture
    else:
        named = {"baseline": {"preset": architecture}} if isinstance(architecture, str) else architecture
        document = named.model_dump(mode="json", exclude_none=True) if isinstance(named, BaseModel) else named
        parsed = parse_spec(BaselineArchitecture, document)
    return blueprint(group_network(parsed)).build(seed=seed)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
