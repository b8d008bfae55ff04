"""A study's table as JSON, Markdown and CSV, and its plot."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from collegium.train.result import Cell, StudyResult

HEAD = ("architecture", "method", "recipe", "m × n", "parameters", "chosen", "test, %", "train, %", "runs")


def write_tables(result: StudyResult, folder: Path) -> list[Path]:
    """``table.json``, ``table.md``, ``table.csv`` and ``plot.svg`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.json": result.model_dump_json(indent=1),
        "table.md": markdown(result),
        "table.csv": comma_separated(result),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "plot.svg").write_bytes(plot(result))
    return [folder / name for name in (*texts, "plot.svg")]


def markdown(result: StudyResult) -> str:
    """The table as GitHub's Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(_cells(cell))} |" for cell in result.cells]
    title = [f"# {result.title}", ""] if result.title else []
    notes = ["", *(f"* {note.message}" for note in result.notes)] if result.notes else []
    return "\n".join([*title, *lines, *notes]) + "\n"


def _cells(cell: Cell) -> list[str]:
    return [
        cell.architecture,
        cell.method,
        cell.recipe,
        _grouping(cell),
        "–" if cell.parameters is None else str(cell.parameters),
        ", ".join(f"{name} {value:.4g}" for name, value in cell.chosen.items()) or "–",
        percent(cell.test_accuracy, cell.test_accuracy_error),
        percent(cell.train_accuracy, None),
        f"{cell.succeeded} of {len(cell.runs)}",
    ]


def _grouping(cell: Cell) -> str:
    if cell.stages is not None:
        return ", ".join(map(str, cell.stages))
    widths = "–" if cell.widths is None else "×".join(map(str, cell.widths))
    return widths if cell.multiplicity is None else f"{cell.multiplicity} × ({widths})"


def percent(value: float | None, error: float | None) -> str:
    """A fraction in percent, with its standard error."""
    if value is None:
        return "–"
    return f"{100 * value:.2f}" if error is None else f"{100 * value:.2f} ± {100 * error:.2f}"


def comma_separated(result: StudyResult) -> str:
    """The table with full precision, one row for each cell."""
    names = [
        "architecture", "method", "recipe", "multiplicity", "widths", "parameters", "chosen", "succeeded",
        "test_accuracy", "test_accuracy_error", "test_loss", "test_loss_error", "train_accuracy", "seconds", "stages",
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for cell in result.cells:
        values = cell.model_dump(mode="json", include=set(names))
        values["widths"] = "x".join(map(str, cell.widths or ()))
        values["stages"] = ";".join(map(str, cell.stages or ())).replace("×", "x")
        values["chosen"] = ";".join(f"{name}={value}" for name, value in cell.chosen.items())
        writer.writerow([values[name] for name in names])
    return text.getvalue()


def plot(result: StudyResult) -> bytes:
    """Test accuracy of every cell with its standard error, as SVG; one panel for each recipe."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    recipes = list(dict.fromkeys(cell.recipe for cell in result.cells))
    methods = list(dict.fromkeys(cell.method for cell in result.cells))
    architectures = list(dict.fromkeys(cell.architecture for cell in result.cells))
    figure = Figure(figsize=(1.5 + max(4.0, 1.2 * len(architectures)) * len(recipes), 4.5), layout="constrained")
    panels = figure.subplots(1, len(recipes), sharey=True, squeeze=False)[0]
    for panel, recipe in zip(panels, recipes, strict=True):
        for rank, method in enumerate(methods):
            cells = [
                (architectures.index(cell.architecture), cell)
                for cell in result.cells
                if (cell.recipe, cell.method) == (recipe, method) and cell.test_accuracy is not None
            ]
            shift = 0.6 * ((rank + 0.5) / len(methods) - 0.5)
            panel.errorbar(
                [index + shift for index, _ in cells],
                [100 * (cell.test_accuracy or 0) for _, cell in cells],
                yerr=[100 * (cell.test_accuracy_error or 0) for _, cell in cells],
                fmt="o",
                capsize=3,
                label=method,
            )
        panel.set_xticks(range(len(architectures)), architectures, rotation=30, ha="right")
        panel.set_title(recipe)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    panels[-1].legend(fontsize="small")
    if result.title:
        figure.suptitle(result.title)
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file)
    return file.getvalue()
