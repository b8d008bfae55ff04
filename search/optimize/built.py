"""Which integer ensembles are built: the primal within its limits, the dual within the baseline's variance.

n* is found with a real multiplicity; its nearest integer is built unless rounding spoils it. Then, and always within a
budget that a user gave, it is the best integer ensemble over all members. An answer is better than the baseline, or it
is the baseline itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from collegium.search.networks.network import Measure, Network, StageGrouping
from collegium.search.optimize.candidates import StageSolution
from collegium.search.optimize.limits import ROUNDING_TOLERANCE
from collegium.search.optimize.solve import ROUNDING_LOSS, Solved, lowest
from collegium.search.optimize.variances import worst_ratio
from collegium.search.part import named_widths
from collegium.search.result import CurveRow, RegroupedBranch, SolvedEnsemble, StageVariance

#: Relative difference that is taken for rounding errors of the arithmetic.
EQUAL = 1e-9


def primal(solved: Solved) -> SolvedEnsemble | None:
    """The ensemble of smallest variance in its worst stage that is within the limits; None where none is.

    It is the baseline itself where that is within them and no ensemble is better.
    """
    best = solved.primal_optimum
    if best is None:
        return None
    constraints = solved.constraints
    fits = constraints.baseline_fits(constraints.limits)
    bound = 1 - EQUAL if fits else math.inf
    built = solved.variances.worst / solved.primal_integer
    index = _kept(best, built, bound) if constraints.rounds else lowest(built)
    if index is not None and built[index] < bound:
        return ensemble(solved, index, solved.primal_integer[index], solved.primal_real[index])
    built = solved.variances.worst / solved.primal_largest
    index = lowest(built)
    if index is not None and built[index] < bound:
        return ensemble(solved, index, solved.primal_largest[index], solved.primal_real[index])
    return baseline_ensemble(solved) if fits else None


def dual(solved: Solved) -> SolvedEnsemble | None:
    """The cheapest ensemble with at most 102.5 % of the baseline's variance in every stage; None where none reaches it.

    It is the baseline itself where that is within the limits and no ensemble is cheaper.
    """
    best, constraints = solved.dual_optimum, solved.constraints
    fits = constraints.baseline_fits(constraints.limits[1:])
    if best is None:
        return baseline_ensemble(solved) if fits and solved.widths else None
    built = solved.cost.at(solved.dual_integer)
    bound = constraints.baseline_count * (1 - EQUAL) if fits else math.inf
    index = _kept(best, built, bound)
    if index is not None and built[index] < bound:
        return ensemble(solved, index, solved.dual_integer[index], solved.dual_real[index])
    return baseline_ensemble(solved) if fits else None


def _kept(best: int, built: np.ndarray, bound: float) -> int | None:
    """``best``, unless what is built of it is over 5 % worse than the best of any member, or not below ``bound``."""
    other = lowest(built)
    if other is None or (built[best] <= (1 + ROUNDING_LOSS) * built[other] and built[best] < bound):
        return best
    return other


def ensemble(solved: Solved, index: int, multiplicity: float, real: float) -> SolvedEnsemble | None:
    """m members of the widths at ``index``; None where m is NaN."""
    if math.isnan(multiplicity):
        return None
    return _described(solved, solved.widths[index], int(multiplicity), float(real), solved.variances.by_stage[index])


def baseline_ensemble(solved: Solved) -> SolvedEnsemble:
    """The baseline itself as an answer."""
    network = solved.constraints.network
    single = np.array(solved.constraints.baseline_variances) * network.multiplicity
    return _described(solved, network.baseline, network.multiplicity, float(network.multiplicity), single)


def is_baseline(solved: Solved, answer: SolvedEnsemble) -> bool:
    """Whether an answer is the baseline."""
    network = solved.constraints.network
    return answer.uniform and (answer.widths, answer.multiplicity) == (network.baseline, network.multiplicity)


def within_dual(answer: SolvedEnsemble) -> bool:
    """Whether an ensemble keeps the baseline's variance in every stage, as a dual must."""
    return answer.relative_variance is not None and answer.relative_variance <= 1 + ROUNDING_TOLERANCE


def _described(solved: Solved, widths: tuple[int, ...], m: int, real: float, single: np.ndarray) -> SolvedEnsemble:
    constraints, network = solved.constraints, solved.constraints.network
    base = constraints.baseline_variances
    costs: dict[Measure, int] = {
        "parameters": network.count("parameters", widths, m),
        "flops": network.count("flops", widths, m),
    }
    stages = tuple(
        StageVariance(
            widths=tuple(scale * width for width in widths),
            multiplicity=m,
            variance=float(variance) / m,
            relative_variance=float(worst_ratio(np.array([variance / m]), (own,))),
        )
        for scale, variance, own in zip(constraints.scales, single, base, strict=True)
    )
    return SolvedEnsemble(
        widths=widths,
        multiplicity=m,
        multiplicity_real=real,
        variance=float(single[0]) / m,
        parameters=costs["parameters"],
        flops=costs["flops"],
        efficiency=constraints.baseline_count / costs[constraints.measure],
        relative_variance=float(worst_ratio(single / m, base)),
        budget_share=costs[constraints.budget.measure] / constraints.budget.most,
        stages=stages if len(stages) > 1 else (),
        label=f"{m}×{named_widths(widths)}",
    )


def label_of(network: Network, stages: Sequence[StageGrouping]) -> str:
    """m × n where all stages have it, such as ``12×10``; else that of every stage, ``11×7, 10×14``."""
    tied = network.tied(stages)
    each = [(one.widths, one.multiplicity) for one in stages] if tied is None else [tied]
    return ", ".join(f"{m}×{named_widths(widths)}" for widths, m in each)


def own_ensemble(solved: Solved, found: StageSolution | None) -> SolvedEnsemble | None:
    """An ensemble whose stages are grouped each in its own way."""
    if found is None:
        return None
    constraints, network = solved.constraints, solved.constraints.network
    first = found.stages[0]
    uniform = network.tied(found.stages)
    return SolvedEnsemble(
        widths=first.widths,
        multiplicity=first.multiplicity,
        multiplicity_real=float(first.multiplicity),
        variance=found.variances[0],
        parameters=network.count_stages("parameters", found.stages),
        flops=network.count_stages("flops", found.stages),
        efficiency=constraints.baseline_count / network.count_stages(constraints.measure, found.stages),
        relative_variance=max(found.relative),
        budget_share=network.count_stages(constraints.budget.measure, found.stages) / constraints.budget.most,
        stages=tuple(
            StageVariance(widths=one.widths, multiplicity=one.multiplicity, variance=variance, relative_variance=ratio)
            for one, variance, ratio in zip(found.stages, found.variances, found.relative, strict=True)
            if len(found.stages) > 1
        ),
        label=label_of(network, found.stages),
        uniform=uniform is not None,
        gap=found.gap,
    )


def groupings(network: Network, answer: SolvedEnsemble) -> tuple[StageGrouping, ...]:
    """The grouping of every stage of an answer."""
    if answer.uniform:
        return network.stage_groupings(answer.widths, answer.multiplicity)
    return tuple(StageGrouping(one.widths, one.multiplicity) for one in answer.stages)


def stage_solution(network: Network, answer: SolvedEnsemble) -> StageSolution:
    """An answer as a choice for every stage, with the variances that are known."""
    return StageSolution(
        stages=groupings(network, answer),
        variances=tuple(one.variance for one in answer.stages) or (answer.variance,),
        relative=tuple(one.relative_variance for one in answer.stages) or (answer.relative_variance or 0.0,),
        gap=answer.gap or 0.0,
    )


def with_modules(network: Network, answer: SolvedEnsemble | None) -> SolvedEnsemble | None:
    """The answer with the modules of a described network that it changes."""
    if answer is None:
        return None
    changed = network.modules(groupings(network, answer))
    if not changed:
        return answer
    branches = tuple(
        RegroupedBranch(paths=paths, widths=own.widths, multiplicity=own.multiplicity) for paths, own in changed
    )
    return answer.model_copy(update={"branches": branches})


def better(
    own: SolvedEnsemble | None, tied: SolvedEnsemble | None, by: Literal["relative_variance", "cost"]
) -> SolvedEnsemble | None:
    """Stages grouped apart, unless one m × n for all of them is smoother in the worst stage, or cheaper."""
    if own is None or tied is None:
        return own or tied
    if by == "cost":
        return tied if tied.efficiency > own.efficiency else own
    return tied if (tied.relative_variance or 0.0) < (own.relative_variance or 0.0) else own


def row(solved: Solved, index: int) -> CurveRow:
    """One row of the curve."""
    built = ensemble(solved, index, solved.primal_integer[index], solved.primal_real[index])
    compact = ensemble(solved, index, solved.dual_integer[index], solved.dual_real[index])
    return CurveRow(
        widths=solved.widths[index],
        inverse_fan_in_sum=solved.constraints.network.inverse_fan_in_sum(solved.widths[index]),
        variance=float(solved.variance[index]),
        objective=_number(solved.objective[index]),
        primal_multiplicity=None if built is None else built.multiplicity,
        primal_multiplicity_real=_number(solved.primal_real[index]),
        primal_variance=_number(solved.primal_variance[index]),
        primal_parameters=None if built is None else built.parameters,
        primal_relative_variance=None if built is None else built.relative_variance,
        primal_budget_share=None if built is None else built.budget_share,
        dual_multiplicity=None if compact is None else compact.multiplicity,
        dual_multiplicity_real=_number(solved.dual_real[index]),
        dual_variance=None if compact is None else compact.variance,
        dual_parameters=None if compact is None else compact.parameters,
        dual_flops=None if compact is None else compact.flops,
        dual_efficiency=None if compact is None else compact.efficiency,
        dual_efficiency_real=_number(solved.constraints.baseline_count / solved.dual_count[index]),
        dual_relative_variance=None if compact is None else compact.relative_variance,
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
