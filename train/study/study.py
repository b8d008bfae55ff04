"""A study: the paper's protocol over architectures, methods and recipes.

For each cell the sweep's grid is run with a validation split held out, the best point is taken, and the seeds run with
it; what is reported is the mean over seeds and its standard error (Mazzawi et al. 2024, Appendix G). Trainings are
children of the study, run by ``fan_out``; one that fails is missing from its cell, and the study goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Protocol

from collegium.counted import counted
from collegium.search.progress import Report, discard
from collegium.train.export.package import describe_file
from collegium.train.loop.callback import Event, discard_event
from collegium.train.result import Cell, Note, Run, Splits, StageMembers, StudyResult, SweepPoint
from collegium.train.spec.study import StudyArchitecture, StudyMethod, StudyRecipe, StudySpec
from collegium.train.spec.training import TrainingSpec
from collegium.train.study.table import write_tables

SWEEP_SEED = 1_000_000
"""Seeds of a sweep are counted from here, so that none of them is run again when the seeds that count are run."""

Progress = Callable[[int, int], None]


class FanOut(Protocol):
    """Runs trainings somewhere."""

    def __call__(self, children: Sequence[dict[str, Any]], progress: Progress | None = None) -> list[dict[str, Any]]:
        """Outcomes ``{key, id, status, result, failure}`` in the order of ``children``, each ``{key, kind, spec}``."""
        ...


@dataclass
class _Cell:
    index: int
    architecture: StudyArchitecture
    method: StudyMethod
    recipe: StudyRecipe
    grid: list[dict[str, Any]]
    sweep: tuple[SweepPoint, ...] = ()
    chosen: dict[str, Any] | None = field(default_factory=dict)


def run(
    spec: StudySpec,
    *,
    fan_out: FanOut,
    report: Report = discard,
    event: Event = discard_event,
    artifact_dir: Path | None = None,
) -> dict[str, Any]:
    """Run a study, and return a :class:`~collegium.train.result.StudyResult` as JSON-able values.

    ``artifact_dir`` gets the table as JSON, Markdown and CSV, and a plot. Every finished cell is an event.
    """
    started = time.monotonic()
    cells = _cells(spec)
    total = spec.trainings()
    trainings = counted(total, "training")
    done = 0
    tried: dict[str, dict[str, Any]] = {}

    def progress(stage: str) -> Progress:
        return lambda finished, _: report((done + finished) / total, f"{stage}: {done + finished} of {trainings}")

    if spec.sweep is not None:
        children = [child for cell in cells for child in _sweep_children(spec, cell)]
        report(0.0, f"sweep: {counted(len(children), 'training')}")
        tried = _by_key(fan_out(children, progress("sweep")))
        _choose(spec, cells, tried)
        done += len(children)
    children = [child for cell in cells if cell.chosen is not None for child in _seed_children(spec, cell)]
    report(done / total, f"seeds: {counted(len(children), 'training')}")
    outcomes = _by_key(fan_out(children, progress("seeds")))
    report(1.0, f"{done + len(children)} of {trainings}")  # what was said on the way may be older
    rows = []
    for cell in cells:
        rows.append(_row(spec, cell, outcomes))
        event("metric", {"scope": "cell", **_brief(rows[-1])})
    result = StudyResult(
        title=spec.title,
        cells=tuple(rows),
        trainings=total,
        failed=sum(run.status != "succeeded" for row in rows for run in _all_runs(row)),
        seconds=time.monotonic() - started,
        notes=(*_notes(rows), *_in_vain(cells, tried | outcomes)),
    )
    if artifact_dir is not None:
        paths = write_tables(result, artifact_dir)
        result = result.model_copy(update={"artifacts": tuple(describe_file(path) for path in paths)})
    return result.model_dump(mode="json")


def _cells(spec: StudySpec) -> list[_Cell]:
    cells = []
    for index, (architecture, method, recipe) in enumerate(product(spec.architectures, spec.methods, spec.recipes)):
        grid = spec.points_of(architecture, method, recipe) if spec.sweep else []
        cells.append(_Cell(index, architecture, method, recipe, grid))
    return cells


def _child(key: str, spec: TrainingSpec) -> dict[str, Any]:
    return {"key": key, "kind": "training", "spec": spec.model_dump(mode="json", exclude_none=True)}


def _sweep_children(spec: StudySpec, cell: _Cell) -> list[dict[str, Any]]:
    assert spec.sweep is not None
    parts = (cell.architecture, cell.method, cell.recipe)
    return [
        _child(
            f"sweep:{cell.index}:{point}:{seed}",
            spec.training(*parts, seed=SWEEP_SEED + seed, validation=spec.sweep_validation, **fields),
        )
        for point, fields in enumerate(cell.grid)
        for seed in range(spec.sweep.seeds)
    ]


def _seed_children(spec: StudySpec, cell: _Cell) -> list[dict[str, Any]]:
    validation = spec.data.validation
    if spec.sweep is not None:
        validation = 0.0 if spec.retrain else validation or spec.sweep.validation
    parts, chosen = (cell.architecture, cell.method, cell.recipe), cell.chosen or {}
    return [
        _child(f"seed:{cell.index}:{seed}", spec.training(*parts, seed=seed, validation=validation, **chosen))
        for seed in spec.seeds
    ]


def _by_key(outcomes: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {outcome["key"]: outcome for outcome in outcomes}


def _choose(spec: StudySpec, cells: Sequence[_Cell], outcomes: dict[str, dict[str, Any]]) -> None:
    """Give each cell the grid point that did best on the validation split; none where every point failed."""
    assert spec.sweep is not None
    for cell in cells:
        points = []
        for index, fields in enumerate(cell.grid):
            keys = [f"sweep:{cell.index}:{index}:{seed}" for seed in range(spec.sweep.seeds)]
            runs = tuple(_run_of(outcomes[key], SWEEP_SEED + seed) for seed, key in enumerate(keys))
            points.append(SweepPoint(fields=fields, score=_score(runs, spec.sweep.select), runs=runs))
        cell.sweep = tuple(points)
        tried = [point for point in points if point.score is not None]
        cell.chosen = max(tried, key=lambda point: _merit(point, spec.sweep.select)).fields if tried else None  # type: ignore[union-attr]


def _score(runs: Sequence[Run], select: str) -> float | None:
    """Mean over the sweep's seeds; a point at which any of them failed is no candidate."""
    values = [getattr(run, select).validation for run in runs if run.status == "succeeded"]
    return fmean(values) if len(values) == len(runs) else None


def _merit(point: SweepPoint, select: str) -> tuple[float, float]:
    """What the best point has most of; where accuracies are equal, the lower validation loss decides."""
    assert point.score is not None
    loss = fmean(run.loss.validation for run in point.runs if run.loss is not None and run.loss.validation is not None)
    return (point.score if select == "accuracy" else -point.score, -loss)


def _run_of(outcome: dict[str, Any], seed: int) -> Run:
    result, failure = outcome.get("result"), outcome.get("failure")
    succeeded = outcome["status"] == "succeeded" and result is not None
    status = "succeeded" if succeeded else "cancelled" if outcome["status"] == "cancelled" else "failed"
    return Run(
        key=outcome["key"],
        id=outcome.get("id"),
        seed=seed,
        status=status,
        accuracy=Splits(**result["accuracy"]) if succeeded else None,  # type: ignore[index]
        loss=Splits(**result["loss"]) if succeeded else None,  # type: ignore[index]
        seconds=result["seconds"] if succeeded else None,  # type: ignore[index]
        failure=None if succeeded else (failure or {}).get("message", "it did not finish"),
    )


def _row(spec: StudySpec, cell: _Cell, outcomes: dict[str, dict[str, Any]]) -> Cell:
    found = [outcomes[key] for seed in spec.seeds if (key := f"seed:{cell.index}:{seed}") in outcomes]
    runs = tuple(_run_of(outcome, seed) for outcome, seed in zip(found, spec.seeds, strict=False))
    results = [outcome["result"] for outcome, run in zip(found, runs, strict=True) if run.status == "succeeded"]
    first: dict[str, Any] = results[0] if results else {}
    accuracy, accuracy_error = mean_and_error([result["accuracy"]["test"] for result in results])
    loss, loss_error = mean_and_error([result["loss"]["test"] for result in results])
    return Cell(
        architecture=cell.architecture.name,
        method=cell.method.label,
        recipe=cell.recipe.name,
        parameters=first.get("parameters"),
        multiplicity=first.get("multiplicity"),
        widths=None if first.get("widths") is None else tuple(first["widths"]),
        stages=None if first.get("stages") is None else tuple(StageMembers(**each) for each in first["stages"]),
        chosen=cell.chosen or {},
        sweep=cell.sweep,
        runs=runs,
        succeeded=len(results),
        test_accuracy=accuracy,
        test_accuracy_error=accuracy_error,
        test_loss=loss,
        test_loss_error=loss_error,
        train_accuracy=mean_and_error([result["accuracy"]["train"] for result in results])[0],
        seconds=mean_and_error([result["seconds"] for result in results])[0],
    )


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error; None where there are too few values for it."""
    if not values:
        return None, None
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _all_runs(cell: Cell) -> list[Run]:
    return [*(run for point in cell.sweep for run in point.runs), *cell.runs]


def _brief(cell: Cell) -> dict[str, Any]:
    names = {"architecture", "method", "recipe", "chosen", "succeeded", "test_accuracy", "test_accuracy_error"}
    return cell.model_dump(mode="json", include=names)


def _notes(cells: Sequence[Cell]) -> list[Note]:
    notes = []
    for cell in cells:
        name = f"{cell.architecture} / {cell.method} / {cell.recipe}"
        missing = [point for point in cell.sweep if point.score is None]
        if missing:
            reason = next(run.failure for run in missing[0].runs if run.status != "succeeded")
            if len(missing) == len(cell.sweep):
                message = f"{name}: every point of the sweep failed: {reason}"
                notes.append(Note(kind="sweep_failed", message=message))
            else:
                message = f"{name}: {len(missing)} of {len(cell.sweep)} points of the sweep failed, {_listed(missing)}"
                notes.append(Note(kind="points_lost", message=f"{message}: {reason}"))
        lost = [run for run in cell.runs if run.status != "succeeded"]
        if lost:
            reason = lost[0].failure
            notes.append(Note(kind="runs_lost", message=f"{name}: {len(lost)} of {len(cell.runs)} failed: {reason}"))
    return notes


def _in_vain(cells: Sequence[_Cell], outcomes: Mapping[str, dict[str, Any]]) -> list[Note]:
    """What trainings were asked for and had not: each sentence once, with the cells that it is about."""
    about: dict[str, dict[int, str]] = {}
    for key, outcome in outcomes.items():
        cell = cells[int(key.split(":")[1])]
        name = f"{cell.architecture.name} / {cell.method.label} / {cell.recipe.name}"
        for note in (outcome.get("result") or {}).get("notes") or ():
            if note["kind"] in IN_VAIN:
                about.setdefault(note["message"], {})[cell.index] = name
    return [
        Note(kind="without_effect", message=f"{_first(list(names.values()))}: {message}")
        for message, names in about.items()
    ]


#: Points of a sweep, or cells, that one note names.
NAMED = 3
#: Notes of trainings that are notes of their study as well.
IN_VAIN = ("without_effect", "not_augmented")


def _listed(points: Sequence[SweepPoint]) -> str:
    return _first(["(" + ", ".join(f"{k} {v:g}" for k, v in point.fields.items()) + ")" for point in points])


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *["…"] * (len(names) > NAMED)])
