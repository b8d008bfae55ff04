"""Vanilla training and majority kernels on clean and on noisy labels, both tuned alike."""

from __future__ import annotations

from matplotlib.figure import Figure

from collegium.counted import counted
from collegium.search.reproduce.reproduction import Reproduction
from collegium.train.reproduce.comparison import paired
from collegium.train.reproduce.experiments import Options
from collegium.train.result import Cell
from collegium.train.spec.study import StudySpec
from collegium.train.study.table import percent

HIDDEN = [200, 100]
NOISE = (0.0, 0.2)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
EPOCHS = (15, 30, 60, 120, 240)
SWEEP_SEEDS = 3
VALIDATION = 0.2


def study_of(options: Options, noise: float) -> StudySpec:
    """Both methods over the same grid of rates and numbers of epochs; validation labels are clean."""
    baseline = {"family": "mlp", "inputs": options.inputs, "hidden": HIDDEN, "outputs": 10, "bias": True}
    short = options.effort < 1
    return StudySpec.model_validate(
        {
            "title": f"{100 * noise:.0f} % noisy labels on {options.data}",
            "architectures": [{"name": "A2", "architecture": {"baseline": baseline}}],
            "methods": [
                "vanilla",
                {"method": "majority", "expansion": {"copies": 3, "initialization": "independent"}},  # as published
            ],
            "recipes": [{"name": "Adam", "recipe": {"name": "mk-fc-adam", "batch_size": 64}}],
            "data": {"name": options.data, "label_noise": noise},
            "seeds": options.seeds,
            "sweep": {
                "learning_rate": RATES[1:3] if short else RATES,
                "epochs": sorted({options.epochs(count) for count in EPOCHS}),
                "seeds": 1 if short else SWEEP_SEEDS,
                "validation": VALIDATION,
            },
            "diagnostics": ["gap"],
        }
    )


def experiment(options: Options) -> Reproduction:
    """Run a study at each level of noise."""
    found: dict[tuple[float, str], Cell] = {}
    for noise in NOISE:
        for cell in options.study(study_of(options, noise)).cells:
            found[noise, cell.method] = cell
    rows = tuple(_row(noise, cell) for (noise, _), cell in found.items())
    gains = {noise: paired(found[noise, "vanilla"], found[noise, "majority"]) for noise in NOISE}
    noisy = [found[NOISE[-1], method].test_accuracy or 0.0 for method in ("vanilla", "majority")]
    return Reproduction(
        name="noise",
        title=f"Majority kernels where labels are noisy, on {options.data}",
        claim="Sampled weights keep a network from fitting wrong labels; on clean ones there is little to gain.",
        columns=("labels replaced", "method", "test error, %", "training accuracy, %", "rate", "epochs", "seeds"),
        rows=rows,
        notes=(
            *(
                f"{100 * noise:.0f} %: error lower by {gain} points, paired over seeds."
                for noise, gain in gains.items()
            ),
            f"[200, 100] with biases, Adam, batches of 64, e = 3, {counted(options.seeds, 'seed')}. Rate and "
            f"epochs of each were chosen from one grid, by {VALIDATION:.0%} of the training samples with clean labels.",
            "All seeds share one split and one draw of wrong labels: the intervals do not cover others.",
        ),
        agrees=noisy[1] > noisy[0],
        figure=_figure(options, found),
    )


def _row(noise: float, cell: Cell) -> tuple[str, ...]:
    error = None if cell.test_accuracy is None else 1 - cell.test_accuracy
    return (
        f"{100 * noise:.0f} %",
        cell.method,
        percent(error, cell.test_accuracy_error),
        percent(cell.train_accuracy, None),
        f"{cell.chosen.get('learning_rate', 0):.2g}",
        str(cell.chosen.get("epochs", "–")),
        str(cell.succeeded),
    )


def _figure(options: Options, found: dict[tuple[float, str], Cell]) -> Figure:
    """Validation accuracy over the whole grid, which shows whether the best points lie inside it."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(1, len(NOISE))
    for panel, noise in zip(panels, NOISE, strict=True):
        for method, style in (("vanilla", "o--"), ("majority", "o-")):
            points = [point for point in found[noise, method].sweep if point.score is not None]
            for index, rate in enumerate(sorted({point.fields["learning_rate"] for point in points})):
                line = sorted(
                    (point.fields["epochs"], 100 * (1 - (point.score or 0)))
                    for point in points
                    if point.fields["learning_rate"] == rate
                )
                label = f"{method}, {rate:.2g}"
                panel.plot(*zip(*line, strict=True), style, color=f"C{index}", label=label, markersize=3)
        panel.set_xscale("log")
        panel.set_xlabel("epochs")
        panel.set_title(f"{options.data}, {100 * noise:.0f} % of the labels replaced", fontsize="medium")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("validation error in the sweep, %")
    panels[-1].legend(fontsize="x-small")
    return figure
