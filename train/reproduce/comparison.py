"""Comparisons of two cells of a study, for the tables and notes of the experiments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from collegium.train.result import Cell
from collegium.train.study.study import mean_and_error


def difference(baseline: Cell, other: Cell) -> tuple[float, float]:
    """By how many points of test error ``other`` is better, and the standard error of that."""
    errors = [cell.test_accuracy_error or math.inf for cell in (baseline, other)]
    return 100 * ((other.test_accuracy or 0) - (baseline.test_accuracy or 0)), 100 * math.hypot(*errors)


def paired(baseline: Cell, other: Cell) -> str:
    """The mean of the differences seed by seed, in points, with its standard error."""
    accuracies = [{run.seed: run.accuracy.test for run in cell.runs if run.accuracy} for cell in (baseline, other)]
    gains = [100 * (accuracies[1][seed] - accuracies[0][seed]) for seed in accuracies[0] if seed in accuracies[1]]
    mean, error = mean_and_error(gains)
    return "–" if mean is None or error is None else f"{mean:+.2f} ± {error:.2f}"


def pearson(pairs: Sequence[tuple[float, float]]) -> float:
    """Correlation of two quantities; NaN where one of them does not vary.

    >>> round(pearson([(1, 2), (2, 4), (3, 6)]), 12)
    1.0
    """
    means = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
    x, y = ([pair[i] - means[i] for pair in pairs] for i in (0, 1))
    scale = math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / scale if scale else math.nan


def chosen_rate(cell: Cell) -> str:
    """The learning rate that a sweep chose; a dash where it chose none."""
    return f"{cell.chosen['learning_rate']:.2g}" if "learning_rate" in cell.chosen else "–"
