"""Figures after Mazzawi et al. 2024, Figures 4.2 and G.10, from recorded curves, and of stochastic sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collegium.train.reproduce.majority.entrants import ENTRANTS, REFERENCE
from collegium.train.reproduce.majority.lines import Line

MOST_CELLS = 4
DRAWN = (REFERENCE, "majority, independent", "majority, replicated", "majority, perturbed", "ema", "sam")
LOSS, ACCURACY, SHARPNESS = (1, 3), (2, 4), 5
"""Columns of a curve: training and validation; the sharpness is only in curves of methods with copies."""


def curves_figure(found: Sequence[Line]) -> Figure:
    """Accuracy (above; Figure 4.2) and loss (Figure G.10) on training and validation images over epochs.

    Below, where it was recorded, the stochastic sharpness Δ of the copies over epochs (Lemma B.1).

    Means over seeds, each method at its own rate; training values are those of the network that is trained, with the
    p of each step and the labels that it is given. The first settings with the most methods are drawn.
    """
    by_cell: dict[str, list[Line]] = {}
    for line in found:
        if line.unit.name in DRAWN:
            by_cell.setdefault(line.unit.cell.name, []).append(line)
    names = sorted(by_cell, key=lambda name: -len(by_cell[name]))[:MOST_CELLS] or [""]
    sharp = any(_has_sharpness(line) for name in names for line in by_cell.get(name, ()))
    figure = Figure(figsize=(1 + 3.4 * len(names), 9 if sharp else 6), layout="constrained")
    panels = figure.subplots(3 if sharp else 2, len(names), squeeze=False)
    for column, name in enumerate(names):
        if sharp:
            recorded = [line for line in by_cell.get(name, ()) if _has_sharpness(line)]
            for line in recorded:
                _draw(panels[2][column], line, (SHARPNESS,), 1)
            if recorded:
                panels[2][column].set_yscale("log", nonpositive="mask")
        for row, (pair, scale) in enumerate(((ACCURACY, 100), (LOSS, 1))):
            panel = panels[row][column]
            for line in by_cell.get(name, ()):
                _draw(panel, line, pair, scale)
        for panel in panels[:, column]:
            panel.set_xscale("log")
            panel.grid(alpha=0.3)
            panel.set_xlabel("epochs")
        panels[0][column].set_title(name, fontsize="medium")
    panels[0][0].set_ylabel("accuracy, % (training dotted)")
    panels[1][0].set_ylabel("loss")
    if sharp:
        panels[2][0].set_ylabel("stochastic sharpness Δ")
    _legend(panels[0][0])
    return figure


def _has_sharpness(line: Line) -> bool:
    return any(len(point) > SHARPNESS for row in line.rows.values() for point in row["curve"])


def _draw(panel: Axes, line: Line, columns: tuple[int, ...], scale: float) -> None:
    """Means over seeds; of two columns, the first is that of training, dotted."""
    color = f"C{list(ENTRANTS).index(line.unit.name)}"
    curves = [{point[0]: point for point in row["curve"] if max(columns) < len(point)} for row in line.rows.values()]
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    for index in columns:
        style, label = (":", None) if index != columns[-1] else ("-", line.unit.name)
        means = [scale * fmean(curve[epoch][index] for curve in curves) for epoch in epochs]
        panel.plot(epochs, means, style, color=color, label=label, linewidth=1.2)


def sharpness_figure(found: Sequence[Line]) -> Figure:
    """The gain over plain training against stochastic sharpness Δ (Lemma B.1) at the end, a point for each setting."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    for name in ENTRANTS:
        points = []
        for line in found:
            values = [row["sharpness"] for row in line.rows.values() if row["sharpness"] is not None]
            if line.unit.name == name and values and fmean(values) > 0:
                points.append((fmean(values), line.to_plain.mean, line.to_plain.half))
        if points:
            x, y, half = zip(*points, strict=True)
            color = f"C{list(ENTRANTS).index(name)}"
            panel.errorbar(x, y, yerr=half, fmt="o", color=color, capsize=2, markersize=4, label=name)
    panel.axhline(0, color="grey", linewidth=0.8)
    panel.set_xscale("log")
    panel.set_xlabel("stochastic sharpness Δ on the training images")
    panel.set_ylabel("test accuracy over vanilla, points")
    panel.grid(alpha=0.3)
    _legend(panel)
    return figure


def _legend(panel: Axes) -> None:
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize="x-small")
