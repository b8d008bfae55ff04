"""The flat bottom of the objective: members within a tolerance of n*, and among them a hardware-friendly one.

The objective hardly changes near its optimum, but the time per step does: channels that fill whole vector lanes run
at twice the speed of their neighbours, at a variance within a few percent.
"""

from __future__ import annotations

import numpy as np

from collegium.search.optimize.solve import ROUNDING_LOSS, Solved
from collegium.search.result import NearOptimal, Recommendation

#: Largest grain that is worth seeking: a power of two that divides every width.
COARSEST = 32
#: Most members listed in the answer.
MOST_LISTED = 512


def grain(widths: tuple[int, ...]) -> int:
    """Largest power of two, at most 32, that divides every width of the member."""
    return min(min(width & -width, COARSEST) for width in widths)


def near_optimal(solved: Solved, tolerance: float) -> NearOptimal | None:
    """The band within ``tolerance`` of the optimum and the recommended member in it; None without an optimum.

    Recommended is the largest grain, then the lowest objective, among members at which rounding m loses little.
    """
    objective, integer = solved.objective, solved.integer_objective
    inside = np.flatnonzero(objective <= 1 + tolerance).tolist()
    if not inside:
        return None
    order = sorted(inside, key=lambda index: objective[index])
    most = max(1 + tolerance + ROUNDING_LOSS, min(integer[inside]))
    buildable = [index for index in order if integer[index] <= most]
    best = max(buildable, key=lambda index: (grain(solved.widths[index]), -objective[index]))
    first = [solved.widths[index][0] for index in inside]
    return NearOptimal(
        tolerance=tolerance,
        min_width=min(first),
        max_width=max(first),
        members=tuple(sorted(solved.widths[index] for index in order[:MOST_LISTED])),
        recommended=Recommendation(
            widths=solved.widths[best],
            reason=_reason(solved.widths[best], objective[best] - 1),
            loss=max(0.0, float(objective[best] - 1)),
            primal=solved.primal_ensemble(best),
            dual=solved.dual_ensemble(best),
        ),
    )


def _reason(widths: tuple[int, ...], loss: float) -> str:
    size = grain(widths)
    cost = "at the optimum itself" if loss < 5e-5 else f"at an objective {100 * loss:.1f} % above the optimum's"
    if size == 1:
        return f"the optimum itself; no width within the tolerance is a multiple of 2, {cost}"
    named = "the width is" if len(set(widths)) == 1 else "every width is"
    return f"{named} a multiple of {size}, which fills vector lanes and groups evenly, {cost}"
