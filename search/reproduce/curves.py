"""Figure 3 and the α of section 4.2 of Littwin et al. 2020, by the closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from collegium.search.curve.fit import Point, fit_line
from collegium.search.curve.smooth import constant_sum, varying_sums
from collegium.search.curve.source import GivenAlpha
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.optimize.problem import GroupingProblem, build_problem
from collegium.search.optimize.solve import Solved
from collegium.search.plot import BLUE, GREEN, GREY, ORANGE, RED
from collegium.search.progress import Report
from collegium.search.reproduce.published import ALPHA, FIGURE3
from collegium.search.reproduce.reproduction import Reproduction
from collegium.search.spec import PresetBaseline, SearchSpec

#: Correlations of neighbouring input positions, from white noise to images.
CORRELATIONS = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)
#: Widths of section 4.2's Monte Carlo: 1 … 256.
WIDEST = 256


@dataclass(frozen=True)
class _Optimum:
    """n* of one way to draw the curve."""

    label: str
    solved: Solved

    @property
    def row(self) -> tuple[str, ...]:
        best = self.solved.primal_optimum
        assert best is not None
        width, real = self.solved.widths[best][0], self.solved.primal_real[best]
        dual = self.solved.dual_real[best]
        efficiency = self.solved.constraints.baseline_count / self.solved.dual_count[best]
        return (self.label, str(width), f"{real:.1f}", f"{dual:.2f}", f"{efficiency:.2f}")


def figure3(seed: int, report: Report) -> Reproduction:
    """Primal and dual of the MLP 748 → 500 (5 hidden layers) → 1."""
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset="mlp-mnist-6x500")))
    fitted = GivenAlpha(problem.network, _alpha_over(problem, 50))
    wider = build_problem(SearchSpec(baseline=MlpBaseline(family="mlp", inputs=784, hidden=(500,) * 5, outputs=1)))
    ways = (
        _Optimum("closed form", problem.solve(problem.members, problem.exact)),
        _Optimum(f"α = {fitted.alpha:.2f} fitted over n ≥ 50", problem.solve(problem.members, fitted)),
        _Optimum("closed form, 784 inputs", wider.solve(wider.members, wider.exact)),
    )
    paper = (
        "paper",
        str(FIGURE3["width"]),
        f"≈{FIGURE3['primal_multiplicity']:g}",
        f"≈{FIGURE3['dual_multiplicity']:g}",
        f"≈{FIGURE3['efficiency']:g}",
    )
    rows = (paper, *(way.row for way in ways))
    agrees = all(44 <= int(row[1]) <= 48 and 2.40 <= float(row[4]) <= 2.55 for row in rows[1:3])
    return Reproduction(
        name="figure3",
        title="Figure 3: primal and dual of an MLP, 748 inputs, 5 hidden layers of 500",
        claim="The smoothest member is 48 wide; about 30 fit the budget, and about 12 have the baseline's variance.",
        columns=("", "n*", "m primal", "m dual", "ρ"),
        rows=rows,
        notes=("m is real, before rounding; the objective is flat: from n = 31 to 64 it is within 2.5 % of n*.",),
        agrees=agrees,
        figure=_curves(ways),
    )


def alpha(seed: int, report: Report) -> Reproduction:
    """ln r of the bottleneck block 256 → n → n → 256 against s(n), by the inputs' correlation."""
    problem = build_problem(SearchSpec(baseline=PresetBaseline(preset="resnext29-1x128d")))
    widths = np.arange(1, WIDEST + 1)
    table = np.stack([widths, widths], axis=1)
    varying = varying_sums(problem.network, table)
    s = constant_sum(problem.network) + varying
    curves = {c: problem.at_correlation(c).exact(table) for c in CORRELATIONS}
    rows = [("paper", "", "", f"{ALPHA:.2f}", "")]
    for correlation, log_ratio in curves.items():
        wide = widths >= 8
        slope = np.polyfit(varying[wide], log_ratio[wide], 1)[0]
        line = np.dot(s, log_ratio) / np.dot(s, s)
        weighted = fit_line(_points(s, log_ratio), (1, None)).alpha
        rows.append(
            (
                f"correlation {correlation:g}",
                f"{log_ratio[0] / s[0]:.3f}",
                f"{line:.2f}",
                f"{weighted:.2f}",
                f"{slope:.2f}",
            )
        )
    white = curves[0.0][0] / s[0]
    return Reproduction(
        name="alpha",
        title="Section 4.2: α of a bottleneck block, 256 channels in and out, n = 1 … 256",
        claim="The paper fits ln r by a straight line in s(n) = 1/256 + 1/(9n) + 1/n and finds α ≈ 1.60.",
        columns=("inputs", "ln r / s at n = 1", "plain line", "weighted line", "slope, n ≥ 8"),
        rows=tuple(rows),
        notes=(
            "α ≈ 1.60 is what white inputs give at n = 1: a straight line through a curve.",
            "The slope is that of ln r on 1/(9n) + 1/n; in truth nothing depends on the constant 1/256.",
        ),
        agrees=round(float(white), 1) == round(ALPHA, 1),
        figure=_alpha_figure(s, curves),
    )


def _alpha_over(problem: GroupingProblem, narrowest: int) -> float:
    members = tuple(widths for widths in problem.members if widths[0] >= narrowest)
    s = np.array([problem.network.inverse_fan_in_sum(widths) for widths in members])
    return fit_line(_points(s, problem.exact(np.array(members))), (1, None)).alpha


def _points(s: np.ndarray, log_ratio: np.ndarray) -> list[Point]:
    return [Point((1,), float(x), float(y)) for x, y in zip(s, log_ratio, strict=True)]


def _curves(ways: tuple[_Optimum, ...]) -> Figure:
    sheet = Figure(figsize=(10, 4.5), layout="constrained")
    primal, dual = sheet.add_subplot(1, 2, 1), sheet.add_subplot(1, 2, 2)
    for way, color in zip(ways, (BLUE, GREEN, GREY), strict=True):
        solved = way.solved
        widths = np.array([member[0] for member in solved.widths])
        shown = (widths >= 8) & (widths <= 300)
        efficiency = solved.constraints.baseline_count / solved.dual_count
        primal.plot(widths[shown], solved.primal_variance[shown], color=color, label=way.label)
        dual.plot(widths[shown], efficiency[shown], color=color, label=way.label)
        best = solved.primal_optimum
        primal.plot([widths[best]], [solved.primal_variance[best]], "o", color=color)
        dual.plot([widths[best]], [efficiency[best]], "o", color=color)
    primal.axvline(FIGURE3["width"], color=RED, linestyle=":", label="paper's n*")
    dual.plot([FIGURE3["width"]], [FIGURE3["efficiency"]], "x", color=RED, label="paper's optimum")
    for axes, title, label in ((primal, "(a) primal", "Var(K) / m"), (dual, "(b) dual", "efficiency ρ")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("width n")
        axes.set_ylabel(label)
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return sheet


def _alpha_figure(s: np.ndarray, curves: dict[float, np.ndarray]) -> Figure:
    sheet = Figure(figsize=(7, 5), layout="constrained")
    axes = sheet.add_subplot()
    for (correlation, log_ratio), color in zip(
        curves.items(), (GREY, ORANGE, GREEN, "#56B4E9", BLUE, "#000000"), strict=True
    ):
        axes.plot(s, log_ratio, color=color, label=f"correlation {correlation:g}")
    axes.plot(s, ALPHA * s, "--", color=RED, label=f"paper: {ALPHA:.2f}·s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("s(n) = 1/256 + 1/(9n) + 1/n")
    axes.set_ylabel("ln r")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return sheet
