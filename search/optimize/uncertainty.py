"""How far n* itself can be trusted: under the estimate's error, and under another correlation of the inputs.

The curve is redrawn within its standard error and both problems are solved again for every draw. The budget's
multiplicities do not depend on the estimate, so a draw costs one division per member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from collegium.search.curve.smooth import varying_sums
from collegium.search.optimize import built
from collegium.search.optimize.limits import Constraints
from collegium.search.optimize.solve import Solved, solve
from collegium.search.optimize.variances import LARGEST_FINITE, worst_ratio
from collegium.search.result import Confidence, CorrelationRow, Win

#: Redrawn estimates.
DRAWS = 4000
#: Correlations between neighbouring positions at which n* is found again.
CORRELATIONS = (0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
#: Most winners listed.
MOST_WINNERS = 20
LEVEL = 0.9


def confidence(solved: Solved, redrawn: np.ndarray | None, tolerance: float) -> Confidence | None:
    """How often n* stays the optimum over redrawn curves.

    ``redrawn`` holds ln r of every member in every stage, shape (draws, members, stages); None where the estimate has
    no error.
    None is returned where there is no optimum.
    """
    best = solved.optimum
    if best is None:
        return None
    first = solved.widths[best][0]
    if redrawn is None:
        win = Win(widths=solved.widths[best], frequency=1.0)
        return Confidence(frequency=1.0, within_tolerance=1.0, low=first, high=first, level=LEVEL, draws=0, wins=(win,))
    objective = _objectives(solved, redrawn)
    winners = np.nanargmin(objective, axis=1)
    lowest = objective[np.arange(len(objective)), winners]
    counts = Counter(winners.tolist()).most_common()
    widths = np.array([member[0] for member in solved.widths])[winners]
    return Confidence(
        frequency=float(np.mean(winners == best)),
        within_tolerance=float(np.mean(objective[:, best] <= (1 + tolerance) * lowest)),
        low=int(np.quantile(widths, (1 - LEVEL) / 2, method="lower")),
        high=int(np.quantile(widths, (1 + LEVEL) / 2, method="higher")),
        level=LEVEL,
        draws=len(objective),
        wins=tuple(
            Win(widths=solved.widths[index], frequency=count / len(objective)) for index, count in counts[:MOST_WINNERS]
        ),
    )


def _objectives(solved: Solved, redrawn: np.ndarray) -> np.ndarray:
    """The objective of every member in every draw, shape (draws, members); the smaller the better."""
    variance = np.expm1(np.clip(redrawn, 0.0, LARGEST_FINITE))
    worst = worst_ratio(variance, solved.constraints.baseline_variances)
    if solved.primal_optimum is not None:
        return worst / solved.primal_real
    dual = solved.cost.at(np.maximum(1.0, worst))
    return np.where(np.isnan(solved.dual_count), np.nan, dual)


def by_correlation(
    constraints_at: Callable[[float], Constraints],
    widths: Sequence[tuple[int, ...]],
    log_ratio_at: Callable[[float], np.ndarray],
    correlations: Sequence[float] = CORRELATIONS,
) -> tuple[CorrelationRow, ...]:
    """Primal and dual at each correlation between neighbouring positions of the input, as a search there answers.

    ``log_ratio_at(c)`` is ln r of every member in every stage at correlation c, and ``constraints_at(c)`` the
    constraints with the baseline's variance there.
    """
    solutions = ((c, solve(constraints_at(c), widths, log_ratio_at(c))) for c in correlations)
    return tuple(_row_at(correlation, solved) for correlation, solved in solutions)


def _row_at(correlation: float, solved: Solved) -> CorrelationRow:
    primal, dual, best = built.primal(solved), built.dual(solved), solved.optimum
    return CorrelationRow(
        correlation=correlation,
        widths=None if primal is None else primal.widths,
        primal_multiplicity=None if primal is None else primal.multiplicity,
        primal_multiplicity_real=None if primal is None else primal.multiplicity_real,
        dual_widths=None if dual is None else dual.widths,
        dual_multiplicity=None if dual is None else dual.multiplicity,
        dual_multiplicity_real=None if dual is None else dual.multiplicity_real,
        dual_efficiency=None if dual is None else dual.efficiency,
        slope=None if best is None else float(solved.log_ratio[best]) / _varying(solved, best),
    )


def _varying(solved: Solved, index: int) -> float:
    return float(varying_sums(solved.constraints.network, np.array([solved.widths[index]]))[0])
