"""Littwin et al. 2020, Figure 4, on any data: primal ensembles of one parameter count, ordered by their variance."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from collegium.counted import counted
from collegium.search.engine import run as search
from collegium.search.reproduce.reproduction import Reproduction
from collegium.search.result import CurveRow, SearchResult
from collegium.search.spec import SearchSpec
from collegium.train.reproduce.comparison import difference, paired, pearson
from collegium.train.reproduce.experiments import Options
from collegium.train.result import Cell
from collegium.train.spec.study import StudySpec
from collegium.train.study.table import percent

WIDTH = {"digits": 100, "synthetic": 100}
USUAL_WIDTH = 200
LAYERS = 5
FRACTIONS = (0.06, 0.08, 0.1, 0.12, 0.24, 0.32, 0.4, 0.5, 0.64)
"""Members' widths that are trained besides the optimum, as fractions of the baseline's."""


@dataclass(frozen=True)
class Point:
    """One ensemble: its name, its size and its kernel's relative variance."""

    name: str
    width: int
    multiplicity: int
    variance: float


def experiment(options: Options) -> Reproduction:
    """Train the baseline, primal ensembles of about its parameter count, and the dual one; error against Var/m."""
    baseline = {
        "family": "mlp",
        "inputs": options.inputs,
        "hidden": [WIDTH.get(options.data, USUAL_WIDTH)] * LAYERS,
        "outputs": 10,
    }
    answer = search(SearchSpec.model_validate({"baseline": baseline, "estimator": {"method": "exact"}}))
    points = ensembles(answer)
    recipe = {"epochs": options.epochs(60)} if options.data == "digits" else {}
    spec = StudySpec.model_validate(
        {
            "title": f"Figure 4 on {options.data}",
            "architectures": [
                {
                    "name": point.name,
                    "architecture": {"baseline": baseline, "width": point.width, "multiplicity": point.multiplicity},
                }
                for point in points
            ],
            "recipes": [{"name": "default", "recipe": recipe}],
            "data": options.data,
            "seeds": options.seeds,
            "resplit": options.data == "digits",
        }
    )
    result = options.study(spec)
    cells = dict(zip((point.name for point in points), result.cells, strict=True))
    return _reproduction(options, points, cells)


def ensembles(answer: SearchResult) -> list[Point]:
    """The baseline, the primal and dual optima, and primal ensembles at those of ``FRACTIONS`` that the curve has."""
    assert answer.primal is not None
    assert answer.dual is not None
    assert answer.baseline.variance is not None
    full, best = answer.baseline.widths[0], answer.primal.widths[0]
    rows = {row.widths[0]: row for row in answer.curve}
    points = [Point("baseline", full, 1, answer.baseline.variance)]
    for width in sorted({max(2, round(fraction * full)) for fraction in FRACTIONS} - {best}):
        if width in rows:
            points.append(_primal(rows[width]))
    points.append(Point("primal", best, answer.primal.multiplicity, answer.primal.variance))
    points.append(Point("dual", answer.dual.widths[0], answer.dual.multiplicity, answer.dual.variance))
    return points


def _primal(row: CurveRow) -> Point:
    assert row.primal_multiplicity is not None
    assert row.primal_variance is not None
    name = f"{row.primal_multiplicity} x {row.widths[0]}"
    return Point(name, row.widths[0], row.primal_multiplicity, row.primal_variance)


def _reproduction(options: Options, points: list[Point], cells: dict[str, Cell]) -> Reproduction:
    rows = []
    for point in sorted(points, key=lambda point: point.variance):
        cell = cells[point.name]
        error = None if cell.test_accuracy is None else 1 - cell.test_accuracy
        rows.append(
            (
                point.name,
                f"{point.multiplicity} × {point.width}",
                str(cell.parameters),
                f"{point.variance:.3f}",
                percent(error, cell.test_accuracy_error),
                f"{cell.succeeded}",
            )
        )
    primal, dual, baseline = cells["primal"], cells["dual"], cells["baseline"]
    wins, ties = difference(baseline, primal), difference(baseline, dual)
    correlation = pearson([(p.variance, 1 - (cells[p.name].test_accuracy or 0)) for p in points if p.name != "dual"])
    saving = (baseline.parameters or 0) / max(1, dual.parameters or 1)
    notes = (
        f"The primal ensemble's error is {wins[0]:+.2f} ± {wins[1]:.2f} points below the baseline's "
        f"({wins[0] / wins[1]:.1f} standard errors); paired over seeds {paired(baseline, primal)}.",
        f"The dual ensemble's error is {ties[0]:+.2f} ± {ties[1]:.2f} points below the baseline's "
        f"({ties[0] / ties[1]:.1f} standard errors) with {saving:.2f} times fewer parameters.",
        f"Correlation of error and Var/m over the ensembles of equal size: {correlation:.2f}.",
        _seeds(options),
    )
    return Reproduction(
        name="figure4",
        title=f"Figure 4 of Littwin et al. 2020, on {options.data}",
        claim="At one parameter count, the test error of an ensemble falls and rises with the variance of its kernel.",
        columns=("ensemble", "m × n", "parameters", "Var(K)/m", "test error, %", "seeds"),
        rows=tuple(rows),
        notes=notes,
        agrees=wins[0] > 2 * wins[1] and ties[0] > -2 * ties[1] and correlation > 0,
        figure=_figure(options, points, cells),
    )


def _seeds(options: Options) -> str:
    each = "each " if options.seeds > 1 else ""
    split = f", {each}with its own split of the digits in halves" if options.data == "digits" else ""
    return f"{counted(options.seeds, 'seed')}{split}."


def _figure(options: Options, points: list[Point], cells: dict[str, Cell]) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for point in points:
        cell = cells[point.name]
        if cell.test_accuracy is None:
            continue
        error = 100 * (1 - cell.test_accuracy)
        marker = {"baseline": "s", "primal": "*", "dual": "D"}.get(point.name, "o")
        panel.errorbar(
            point.variance, error, yerr=100 * (cell.test_accuracy_error or 0), fmt=marker, capsize=3, color="tab:blue"
        )
        label = f"{point.multiplicity} × {point.width}"
        panel.annotate(label, (point.variance, error), xytext=(5, 5), textcoords="offset points", fontsize="small")
    panel.margins(x=0.1)
    panel.set_xlabel("relative variance of the ensemble's kernel, Var(K)/m")
    panel.set_ylabel("test error, %")
    panel.set_title(
        f"{options.data}: ensembles of one size (○), baseline (□), optimum (☆), dual (◇)", fontsize="medium"
    )
    panel.grid(alpha=0.3)
    return figure
