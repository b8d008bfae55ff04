"""The answer as a figure: primal and dual curve with the band, the α fit, and n* against what is uncertain.

Matplotlib's object interface with its Agg and SVG back ends: no display, no global figure.
"""

from __future__ import annotations

import io
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from collegium.search.latency.result import Cost, CostFront, CostRow
from collegium.search.result import CurveRow, SearchResult, SolvedEnsemble

PlotFormat = Literal["svg", "png"]

#: Colours that are distinct under colour blindness (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"


def render(figure: Figure, format: PlotFormat = "svg", dpi: int = 120) -> bytes:
    """The figure as an SVG or PNG file. Equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "collegium", "svg.fonttype": "path"}):
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(buffer, format=format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def plot(result: SearchResult, format: PlotFormat = "svg") -> bytes:
    """The four panels of ``figure`` as a file."""
    return render(figure(result), format)


def figure(result: SearchResult) -> Figure:
    """Primal curve, dual curve, α fit with residuals, and n* against correlation or the estimate's error.

    Where time or memory was asked for, two more panels have the fronts of variance against them.
    """
    costs = result.costs
    columns = 2 if costs is None else 3
    # fixed margins: a layout engine draws everything twice
    sheet = Figure(figsize=(5.5 * columns, 8))
    sheet.suptitle(f"{result.title} · {result.outcome.message}", fontsize=10, wrap=True)
    grid = sheet.add_gridspec(
        2, columns, left=0.07, right=0.94, top=0.91, bottom=0.06, hspace=0.25, wspace=0.22 if costs is None else 0.42
    )
    if costs is not None:
        cost_front(sheet.add_subplot(grid[0, 2]), result, costs, "latency" if costs.machine else "parameters")
        cost_front(sheet.add_subplot(grid[1, 2]), result, costs, "memory")
    primal_curve(sheet.add_subplot(grid[0, 0]), result)
    dual_curve(sheet.add_subplot(grid[0, 1]), result)
    fit = grid[1, 0].subgridspec(2, 1, height_ratios=(3, 1), hspace=0)
    upper = sheet.add_subplot(fit[0])
    alpha_fit(upper, sheet.add_subplot(fit[1], sharex=upper), result)
    last = sheet.add_subplot(grid[1, 1])
    if result.correlations:
        correlation_curve(last, result)
    elif result.confidence is not None and result.confidence.draws:
        winners(last, result)
    else:
        flatness(last, result)
    return sheet


def primal_curve(axes: Axes, result: SearchResult) -> None:
    """Variance at the budget against the width (Littwin et al. 2020, Fig. 3a), with the near-optimal band."""
    rows = [row for row in _tied(result) if row.primal_variance is not None]
    _curve(axes, [row.widths[0] for row in rows], [row.primal_variance or 0.0 for row in rows], BLUE)
    if result.baseline.variance is not None:
        axes.axhline(result.baseline.variance, color=GREY, linestyle=":", label="baseline")
    primal = _of_curve(result, result.primal, result.tied_primal)
    if primal is not None:
        real = primal.variance * primal.multiplicity / primal.multiplicity_real
        _mark(axes, result, primal.widths, real, f"{primal.multiplicity}×{_named(primal.widths)}")
    _band(axes, result)
    axes.set_yscale("log")
    _label(axes, "primal: variance at the budget", "width n", "Var(K) / m")


def dual_curve(axes: Axes, result: SearchResult) -> None:
    """Efficiency at the baseline's variance against the width (Littwin et al. 2020, Fig. 3b)."""
    rows = [row for row in _tied(result) if row.dual_efficiency_real is not None]
    _curve(axes, [row.widths[0] for row in rows], [row.dual_efficiency_real or 0.0 for row in rows], GREEN)
    axes.axhline(1.0, color=GREY, linestyle=":", label="baseline")
    dual = _of_curve(result, result.dual, result.tied_dual)
    if dual is not None:
        label = f"{dual.multiplicity}×{_named(dual.widths)}, ρ = {dual.efficiency:.2f}"
        _mark(axes, result, dual.widths, dual.efficiency, label)
    _band(axes, result)
    _label(axes, "dual: efficiency at the baseline's variance", "width n", f"ρ ({_counted(result)})")


def cost_front(axes: Axes, result: SearchResult, costs: CostFront, cost: Cost) -> None:
    """The variance of ensembles against what they cost; those that none beats in both are joined."""
    units = {"latency": "time of a batch, ms", "parameters": "parameters", "memory": "memory, MiB"}
    on = sorted((row for row in costs.rows if cost in row.fronts), key=lambda row: _spent(row, cost))
    off = [row for row in costs.rows if cost not in row.fronts]
    axes.plot([_spent(row, cost) for row in off], [row.relative_variance for row in off], ".", color=GREY)
    x, y = [_spent(row, cost) for row in on], [row.relative_variance for row in on]
    axes.plot(x, y, "o-", color=BLUE, markersize=4, label="none is better in both")
    for name, answer, color in (("primal", result.primal, RED), ("recommended", result.recommended, GREEN)):
        row = next((row for row in costs.rows if answer and _same(row, answer)), None)
        if row is not None:
            label = f"{name} {row.label}"
            axes.plot([_spent(row, cost)], [row.relative_variance], "s", color=color, markersize=7, label=label)
    base = costs.baseline
    axes.plot([_spent(base, cost)], [base.relative_variance], "*", color=ORANGE, markersize=11, label="baseline")
    axes.set_yscale("log")
    _label(axes, f"variance against {cost} ({costs.workload})", units[cost], "variance relative to the baseline's")


def _counted(result: SearchResult) -> str:
    """What the curve counts, which is parameters where time or memory is to be saved."""
    return result.measure if result.measure in ("parameters", "flops") else "parameters"


def _of_curve(
    result: SearchResult, answer: SolvedEnsemble | None, tied: SolvedEnsemble | None
) -> SolvedEnsemble | None:
    """The answer that is on the curve; None where it was chosen by time or memory."""
    if result.measure != _counted(result):
        return None
    return answer if result.stages == "tied" else tied


def _spent(row: CostRow, cost: Cost) -> float:
    if cost == "latency":
        return row.latency_ms or 0.0
    return row.parameters if cost == "parameters" else row.memory_bytes / 2**20


def _same(row: CostRow, answer: SolvedEnsemble) -> bool:
    return row.label == answer.label


def alpha_fit(axes: Axes, below: Axes, result: SearchResult) -> None:
    """ln r against s(n) with the fitted line, and the relative residuals under it, of points that converged."""
    points = [point for point in result.alpha.points if point.converged]
    relative = [100 * (point.residual or 0.0) / max(point.log_moment_ratio or 0.0, 1e-300) for point in points]
    alpha = result.alpha.value
    for used, color, label in ((True, BLUE, "in the fit"), (False, GREY, "outside its window")):
        chosen = [point for point in points if point.used == used]
        if not chosen:
            continue
        s = [point.inverse_fan_in_sum for point in chosen]
        sampled = any(point.samples for point in chosen)
        axes.errorbar(
            s,
            [point.log_moment_ratio or 0.0 for point in chosen],
            yerr=[point.standard_error or 0.0 for point in chosen] if sampled else None,
            fmt="o",
            markersize=3,
            color=color,
            label=label,
        )
        own = [value for point, value in zip(points, relative, strict=True) if point.used == used]
        below.plot(s, own, "o", markersize=3, color=color)
    if points and alpha is not None:
        ends = [min(p.inverse_fan_in_sum for p in points), max(p.inverse_fan_in_sum for p in points)]
        axes.plot(ends, [alpha * s for s in ends], color=RED, label=f"α = {alpha:.3g}")
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.tick_params(labelbottom=False)
    shown = [abs(value) for point, value in zip(points, relative, strict=True) if point.used]
    most = 1.5 * max(shown, default=50.0) + 1
    below.set_ylim(-most, most)
    below.axhline(0, color=RED, linewidth=1)
    below.set_ylabel("residual, %")
    below.set_xlabel("inverse fan-in sum s(n)")
    _label(axes, "α fit", "", "ln r")


def correlation_curve(axes: Axes, result: SearchResult) -> None:
    """n and the efficiency of the answers against the correlation of neighbouring input positions."""
    primal = [(row.correlation, row.widths[0]) for row in result.correlations if row.widths is not None]
    axes.plot([c for c, _ in primal], [width for _, width in primal], "o-", color=BLUE, label="n*")
    if result.near_optimal is not None:
        axes.axhspan(result.near_optimal.min_width, result.near_optimal.max_width, color=ORANGE, alpha=0.15)
    axes.set_ylim(bottom=0)
    other = axes.twinx()
    dual = [(row.correlation, row.dual_efficiency) for row in result.correlations if row.dual_efficiency is not None]
    other.plot([c for c, _ in dual], [efficiency for _, efficiency in dual], "s--", color=GREEN)
    other.set_ylim(0, 1.3 * max((efficiency for _, efficiency in dual), default=1.0))
    other.set_ylabel("ρ of the dual (dashed)", color=GREEN)
    _label(axes, "n* against the inputs", "correlation of neighbouring positions", "n*")


def winners(axes: Axes, result: SearchResult) -> None:
    """How often each width wins when the estimate is redrawn within its error."""
    wins = result.confidence.wins if result.confidence is not None else ()
    if result.space == "vector":
        axes.barh([_named(win.widths) for win in wins[:8]], [win.frequency for win in wins[:8]], color=BLUE)
        _label(axes, "n* under the estimate's error", "share of redrawn estimates", "")
        return
    axes.bar([win.widths[0] for win in wins], [win.frequency for win in wins], color=BLUE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, "n* under the estimate's error", "width n", "share of redrawn estimates")


def flatness(axes: Axes, result: SearchResult) -> None:
    """What another width would cost: the objective above its optimum, where that is within 25 %."""
    best = min((row for row in result.curve if row.objective is not None), key=_objective, default=None)
    if best is not None and result.space == "vector":
        for index in range(len(best.widths)):
            rows = [row for row in result.curve if _differs_only_at(index, row, best)]
            label = f"width {index + 1} alone" if len(best.widths) <= 8 else None
            axes.plot([row.widths[index] for row in rows], [_above(row) for row in rows], "o-", ms=3, label=label)
    elif best is not None:
        rows = [row for row in _tied(result) if _above(row) <= 25]
        _curve(axes, [row.widths[0] for row in rows], [_above(row) for row in rows], BLUE)
    if result.near_optimal is not None:
        axes.axhline(100 * result.near_optimal.tolerance, color=ORANGE, label="tolerance")
        pick = result.near_optimal.recommended
        if result.space != "vector" and pick is not None and (pick.primal is None or pick.primal.uniform):
            axes.axvline(pick.widths[0], color=GREEN, linestyle="--", label="recommended")
    _label(axes, "what another width costs (the estimate is exact)", "width n", "objective above the optimum, %")


def _objective(row: CurveRow) -> float:
    return float("inf") if row.objective is None else row.objective


def _above(row: CurveRow) -> float:
    """The objective above the optimum's, in percent."""
    return 100 * (_objective(row) - 1)


def _differs_only_at(index: int, row: CurveRow, best: CurveRow) -> bool:
    others = [width for at, width in enumerate(row.widths) if at != index]
    return others == [width for at, width in enumerate(best.widths) if at != index] and _above(row) <= 25


def _tied(result: SearchResult) -> list[CurveRow]:
    """Rows that share the baseline's ratios, by width: what a plane can show of a search over width vectors."""
    if result.space != "vector":
        return sorted(result.curve, key=lambda row: row.widths[0])
    base = result.baseline.widths
    rows = [
        row
        for row in result.curve
        if all(abs(n - row.widths[0] * b / base[0]) <= 0.5 for n, b in zip(row.widths, base, strict=True))
    ]
    return sorted(rows, key=lambda row: row.widths[0])


def _curve(axes: Axes, x: list[int], y: list[float], color: str) -> None:
    axes.plot(x, y, color=color, linewidth=1.5, marker="o" if len(x) < 40 else None, markersize=3)
    if x and max(x) > 8 * min(x):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _mark(axes: Axes, result: SearchResult, widths: tuple[int, ...], y: float, label: str) -> None:
    """The optimum: a point on the curve, or a level where its widths are not those of the curve."""
    if result.space == "vector":
        axes.axhline(y, color=RED, linestyle="--", label=label)
    else:
        axes.plot([widths[0]], [y], "o", color=RED, markersize=7, label=label)


def _named(widths: tuple[int, ...]) -> str:
    return str(widths[0]) if len(set(widths)) == 1 else str(list(widths))


def _band(axes: Axes, result: SearchResult) -> None:
    band = result.near_optimal
    if band is not None and result.space != "vector":
        label = f"within {100 * band.tolerance:g} %"
        axes.axvspan(band.min_width, band.max_width, color=ORANGE, alpha=0.2, label=label)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
