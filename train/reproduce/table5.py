"""Mazzawi et al. 2024, Table 5: training methods on fully connected networks, each with its own learning rate."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from collegium.counted import counted
from collegium.search.reproduce.reproduction import Reproduction
from collegium.train.reproduce.comparison import chosen_rate
from collegium.train.reproduce.experiments import Options
from collegium.train.result import Cell, StudyResult
from collegium.train.spec.study import StudySpec
from collegium.train.study.table import percent

ARCHITECTURES = {"A1": [100], "A2": [200, 100], "A3": [400, 200, 100]}
OPTIONS = {"majority": {"expansion": {"copies": 3, "initialization": "independent"}}}  # as published
METHODS = ("vanilla", "ensemble", "distilled", "subset", "majority")
EXPANSION = 3

#: Test accuracies on CIFAR-10 as published, in percent: (method, architecture) → (Adam, SGD).
PUBLISHED = {
    ("vanilla", "A1"): (51.79, 51.24), ("ensemble", "A1"): (52.27, 52.55), ("distilled", "A1"): (48.68, 48.69),
    ("subset", "A1"): (52.09, 52.10), ("majority", "A1"): (52.01, 51.82),
    ("vanilla", "A2"): (52.99, 52.64), ("ensemble", "A2"): (54.36, 54.87), ("distilled", "A2"): (52.94, 51.87),
    ("subset", "A2"): (53.69, 53.90), ("majority", "A2"): (54.29, 54.21),
    ("vanilla", "A3"): (53.79, 53.30), ("ensemble", "A3"): (55.62, 56.56), ("distilled", "A3"): (55.26, 54.21),
    ("subset", "A3"): (54.58, 54.57), ("majority", "A3"): (55.04, 54.97),
}  # fmt: skip

#: The digits are few: batches of 256 would leave four steps an epoch.
SCALED: dict[str, dict[str, Any]] = {"digits": {"batch_size": 64, "epochs": 120}}


def study_of(options: Options) -> StudySpec:
    """Methods × architectures × optimizers, the paper's ten rates each, then the seeds."""
    scaled = SCALED.get(options.data, {})
    baseline = {"family": "mlp", "inputs": options.inputs, "outputs": 10, "bias": True}
    recipes = {"Adam": "mk-fc-adam", "SGD": "mk-fc-sgd"}
    fields = {**scaled, "epochs": options.epochs(scaled.get("epochs", 30))}
    rates: Any = "paper" if options.effort >= 1 else None
    sweep = {"learning_rate": rates} if rates else None
    return StudySpec.model_validate(
        {
            "title": f"Table 5 on {options.data}",
            "architectures": [
                {"name": name, "architecture": {"baseline": {**baseline, "hidden": hidden}}}
                for name, hidden in ARCHITECTURES.items()
            ],
            "methods": [{"method": method, **OPTIONS.get(method, {})} for method in METHODS],
            "recipes": [{"name": name, "recipe": {"name": recipe, **fields}} for name, recipe in recipes.items()],
            "expansion": {"copies": EXPANSION},
            "data": options.data,
            "seeds": options.seeds,
            "sweep": sweep,
        }
    )


def experiment(options: Options) -> Reproduction:
    """Run the study, and compare its accuracies with the published values."""
    result = options.study(study_of(options))
    cells = {(cell.architecture, cell.method, cell.recipe): cell for cell in result.cells}
    rows = [
        (f"{method}-{name}", *(column for index, optimizer in enumerate(("Adam", "SGD")) for column in (
            percent(*_score(cells[name, method, optimizer])), chosen_rate(cells[name, method, optimizer]),
            f"{PUBLISHED[method, name][index]:.2f}",
        )))
        for name in ARCHITECTURES
        for method in METHODS
    ]  # fmt: skip
    wins = [_better(cells, name, optimizer) for name in ARCHITECTURES for optimizer in ("Adam", "SGD")]
    scaled = SCALED.get(options.data)
    notes = [
        f"Majority kernels are ahead of vanilla training in {sum(wins)} of {len(wins)} cells.",
        f"{counted(options.seeds, 'seed')}; e = {EXPANSION}; a tenth of the training samples chose the learning rate"
        + (" among the paper's ten." if options.effort >= 1 else ": none was chosen, in this short run."),
    ]
    if scaled:
        notes.append(
            f"Scaled to the data: batches of {scaled['batch_size']}, {options.epochs(scaled['epochs'])} epochs."
        )
    notes += [note.message for note in result.notes]
    return Reproduction(
        name="table5",
        title=f"Table 5 of Mazzawi et al. 2024, on {options.data}",
        claim="Majority kernels are ahead of vanilla and distilled training, and near subset selection.",
        columns=("model", "Adam", "rate", "published", "SGD", "rate ", "published "),
        rows=tuple(rows),
        notes=tuple(notes),
        agrees=all(wins),
        figure=_figure(options, result),
    )


def _score(cell: Cell) -> tuple[float | None, float | None]:
    return cell.test_accuracy, cell.test_accuracy_error


def _better(cells: dict[tuple[str, str, str], Cell], name: str, optimizer: str) -> bool:
    majority, vanilla = (cells[name, method, optimizer].test_accuracy or 0.0 for method in ("majority", "vanilla"))
    return majority > vanilla


def _figure(options: Options, result: StudyResult) -> Figure:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, optimizer in zip(panels, ("Adam", "SGD"), strict=True):
        for rank, method in enumerate(METHODS):
            cells = [cell for cell in result.cells if (cell.recipe, cell.method) == (optimizer, method)]
            places = [index + 0.14 * (rank - 2) for index in range(len(cells))]
            errors = [100 * (1 - (cell.test_accuracy or 0)) for cell in cells]
            bars = [100 * (cell.test_accuracy_error or 0) for cell in cells]
            panel.errorbar(places, errors, yerr=bars, fmt="o", capsize=3, label=method)
        panel.set_xticks(range(len(ARCHITECTURES)), [f"{name} {hidden}" for name, hidden in ARCHITECTURES.items()])
        panel.set_title(f"{options.data}, {optimizer}", fontsize="medium")
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("test error, %")
    panels[1].legend(fontsize="small")
    return figure
