"""Tables 1 and 2 of Littwin et al. 2020 as sizes, multiplicities and efficiencies; test errors need training."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from collegium.search.curve.source import GivenAlpha, LogRatios
from collegium.search.optimize.problem import GroupingProblem, build_problem
from collegium.search.plot import BLUE, GREY, ORANGE
from collegium.search.progress import Report
from collegium.search.reproduce.published import ALPHA, MODELS, PublishedModel
from collegium.search.reproduce.reproduction import Reproduction
from collegium.search.spec import SearchSpec

COLUMNS = (
    "model",
    "side",
    "parameters",
    "paper",
    "ρ",
    "paper's ρ",
    "m solved",
    "paper's m",
    "m exact",
    "variance / baseline's",
)


def table1(seed: int, report: Report) -> Reproduction:
    """ResNeXt-29 on CIFAR: 14 models."""
    return _table(1, "Table 1: ResNeXt-29 groupings on CIFAR-10")


def table2(seed: int, report: Report) -> Reproduction:
    """ResNet-50 and ResNet-101 on ImageNet: 12 models."""
    return _table(2, "Table 2: ResNet-50 and ResNet-101 groupings on ImageNet")


def _table(number: int, title: str) -> Reproduction:
    models = [model for model in MODELS if model.table == number]
    made = [_row(model) for model in models]
    return Reproduction(
        name=f"table{number}",
        title=title,
        claim="Primal multiplicities match the baseline's parameters, dual ones its kernel's variance at α = 1.6.",
        columns=COLUMNS,
        rows=tuple(row for row, _ in made),
        notes=(
            "m solved: primal, the whole network's count; dual, Eq. 14 at α = 1.6 with its constant 1/n_in.",
            "m exact: the same with the closed form at input correlation 0.95; the last column is the exact variance.",
            "A dash: the model was not chosen by solving for m, but is a baseline, a neighbour or another paper's.",
        ),
        agrees=all(agrees for _, agrees in made),
        figure=_figure(models, title),
    )


def _problem(model: PublishedModel) -> GroupingProblem:
    """The 1 × ñ baseline that the model is compared with."""
    return build_problem(
        SearchSpec(baseline=model.spec.model_copy(update={"cardinality": 1, "base_width": model.baseline}))
    )


def _row(model: PublishedModel) -> tuple[tuple[str, ...], bool]:
    problem = _problem(model)
    network = problem.network
    widths = (model.width,) * len(network.baseline)
    count = network.count("parameters", widths, model.multiplicity)
    own = network.count("parameters", network.baseline, 1)
    efficiency = own / count
    solved = _multiplicity(model, problem, widths, GivenAlpha(network, ALPHA))
    exact = _multiplicity(model, problem, widths, problem.exact)
    agrees = (
        model.agrees(count)
        and (model.efficiency is None or f"{efficiency:.1f}" == f"{model.efficiency:.1f}")
        and (not model.solved or round(solved) == model.multiplicity)
    )
    row = (
        model.name,
        model.side,
        f"{count:,}",
        model.parameters,
        f"{efficiency:.2f}",
        "–" if model.efficiency is None else f"{model.efficiency:g}",
        f"{solved:.2f}" if model.solved else "–",
        str(model.multiplicity),
        f"{exact:.2f}" if model.solved else "–",
        f"{_variance(problem, widths, model.multiplicity) / _variance(problem, network.baseline, 1):.2f}",
    )
    return row, agrees


def _multiplicity(
    model: PublishedModel, problem: GroupingProblem, widths: tuple[int, ...], log_ratios: LogRatios
) -> float:
    solved = problem.solve([widths], log_ratios)
    return float((solved.primal_real if model.side == "primal" else solved.dual_real)[0])


def _variance(problem: GroupingProblem, widths: tuple[int, ...], multiplicity: int) -> float:
    return math.expm1(float(problem.exact(np.array([widths]))[0])) / multiplicity


def _figure(models: list[PublishedModel], title: str) -> Figure:
    """Every model by its size and its exact variance."""
    sheet = Figure(figsize=(8, 5.5), layout="constrained")
    axes = sheet.add_subplot()
    for model in models:
        problem = _problem(model)
        widths = (model.width,) * len(problem.network.baseline)
        size = problem.network.count("parameters", widths, model.multiplicity) / 1e6
        variance = _variance(problem, widths, model.multiplicity)
        color = GREY if not model.solved else BLUE if model.side == "primal" else ORANGE
        axes.plot([size], [variance], "o", color=color)
        below = -9 if model.multiplicity == 8 else 4  # keeps neighbours' names apart
        axes.annotate(
            f"{model.multiplicity}×{model.width}d",
            (size, variance),
            textcoords="offset points",
            xytext=(5, below),
            fontsize=8,
        )
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("Var(K) / m, exact, input correlation 0.95")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.set_title(f"{title}: primal blue, dual orange, others grey", fontsize=10)
    return sheet
