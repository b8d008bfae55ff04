"""The vector space of a case: which vectors may be, the search over them, and their neighbourhood."""

from __future__ import annotations

from collegium.search.case import Case
from collegium.search.cost import cost_of
from collegium.search.log_ratios import LogRatios
from collegium.search.members import vector_values
from collegium.search.optimize import Solved
from collegium.search.vector import Found, Objective, neighbours, search_vectors


def best_vector(case: Case, log_ratios: LogRatios, tied: Solved) -> Found | None:
    """The best width vector under ``log_ratios``; None where the tied members show that nothing fits."""
    values = vector_values(case.network, case.spec.space)
    if tied.primal_optimum is None or any(len(allowed) == 0 for allowed in values):
        return None
    objective = Objective(tied.question, cost_of(case.network, case.spec.efficiency), log_ratios)
    starts = [tied.widths[tied.primal_optimum], case.network.baseline]
    return search_vectors(objective, values, starts, case.spec.estimator.seed)


def solve_vectors(case: Case, log_ratios: LogRatios, tied: Solved) -> Solved:
    """Both problems over the tied members, the best vector and the vectors around it."""
    found = best_vector(case, log_ratios, tied)
    if found is None:
        return tied
    around = neighbours(found.widths, vector_values(case.network, case.spec.space))
    return case.solve(sorted({*tied.widths, *around}), log_ratios)
