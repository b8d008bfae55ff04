"""The result of a plain search, from what was measured of each group of branches."""

from __future__ import annotations

import math

from collegium.search.networks.network import StageGrouping
from collegium.search.optimize.built import with_modules
from collegium.search.optimize.limits import MOST_MEMBERS
from collegium.search.result import (
    Alpha,
    BaselineSummary,
    CurveRow,
    Outcome,
    SearchResult,
    SolvedEnsemble,
)
from collegium.search.spec import SearchSpec
from collegium.search.text import grouped
from collegium.search.whole_network.plain.group import Found
from collegium.search.whole_network.plain.measuring import Measuring, Ratio
from collegium.search.whole_network.plain.part import MeasuredPart
from collegium.versions import versions

SUBJECT = "the kernel of the whole network at initialization"
UNKNOWN = Alpha(method="plain")


def group_result(found: Found, spec: SearchSpec, measuring: Measuring, seconds: float) -> SearchResult:
    """The search of one group, all others as they are."""
    own = measuring.series[measuring.baseline.key].variance.value
    part, problem = found.part, found.problem
    fits = found.constraints.baseline_fits(found.constraints.limits)
    primal = _ensemble(found, found.primal, own) if found.primal else _baseline(found, own) if fits else None
    allowed = found.constraints.baseline_fits(found.constraints.limits[1:])
    dual = _ensemble(found, found.dual, own) if found.dual else _baseline(found, own) if allowed else None
    outcome, notes = _judged(found, primal, dual)
    return SearchResult(
        title=part.title,
        space="widths" if spec.space.widths is not None else "scaled",
        method="plain",
        variance_from="network",
        measure=spec.efficiency,
        budget=problem.budget,
        alpha=UNKNOWN,
        baseline=BaselineSummary(
            widths=part.baseline,
            title=part.title,
            multiplicity=part.multiplicity,
            variance=own,
            parameters=part.described.parameters,
            flops=part.described.flops,
        ),
        primal=primal,
        dual=dual,
        curve=tuple(_row(found, index, each, own) for index, each in found.rows),
        outcome=outcome,
        notes=(*notes, *_left(part)),
        seed=spec.estimator.seed,
        samples=measuring.draws,
        device=measuring.device,
        versions=versions("numpy", "torch"),
        seconds=seconds,
        subject=SUBJECT,
        budget_tolerance=problem.limits[0].tolerance,
    )


def nothing_to_measure(spec: SearchSpec, left: tuple[str, ...], device: str) -> SearchResult:
    """The result where no branch can be regrouped."""
    described = spec.baseline
    whole = BaselineSummary(
        widths=(1,),
        title=described.name,  # type: ignore[union-attr]
        multiplicity=1,
        variance=None,
        parameters=described.parameters,  # type: ignore[union-attr]
        flops=described.flops,  # type: ignore[union-attr]
    )
    reasons = "; ".join(left) or "the description has no branches"
    outcome = Outcome(kind="nothing_to_gain", message=f"Nothing of this network can be split: {reasons}.")
    return SearchResult(
        title=whole.title,
        space="scaled",
        method="plain",
        variance_from="network",
        measure=spec.efficiency,
        budget=spec.budget or whole.parameters,
        alpha=UNKNOWN,
        baseline=whole,
        curve=(),
        outcome=outcome,
        seed=spec.estimator.seed,
        samples=0,
        device=device,
        versions=versions("numpy", "torch"),
        seconds=0.0,
        subject=SUBJECT,
    )


def _ensemble(found: Found, each: Ratio, own: float) -> SolvedEnsemble:
    chosen = each.candidate
    index = found.solved.widths.index(chosen.widths)
    real = found.solved.primal_real[index] if each is found.primal else chosen.multiplicity
    return _built(found, chosen.widths, chosen.multiplicity, float(real), each.variance, each.value)


def _baseline(found: Found, own: float) -> SolvedEnsemble:
    part = found.part
    return _built(found, part.baseline, part.multiplicity, float(part.multiplicity), own, 1.0)


def _built(
    found: Found, widths: tuple[int, ...], m: int, real: float, variance: float, relative: float
) -> SolvedEnsemble:
    part, constraints = found.part, found.constraints
    answer = SolvedEnsemble(
        widths=widths,
        multiplicity=m,
        multiplicity_real=min(real, float(MOST_MEMBERS)),
        variance=variance,
        parameters=part.count("parameters", widths, m),
        flops=part.count("flops", widths, m),
        efficiency=constraints.baseline_count / part.count(constraints.measure, widths, m),
        relative_variance=relative,
        budget_share=part.count(constraints.budget.measure, widths, m) / constraints.budget.most,
        label=str(StageGrouping(widths, m)),
    )
    built = with_modules(part, answer)
    assert built is not None
    return built


def _row(found: Found, index: int, each: Ratio, own: float) -> CurveRow:
    """A member as it was measured at the primal's m."""
    widths, m = found.solved.widths[index], each.candidate.multiplicity
    best = found.primal.value if found.primal else None
    measure = found.constraints.budget.measure
    return CurveRow(
        widths=widths,
        inverse_fan_in_sum=found.part.inverse_fan_in_sum(widths),
        variance=m * each.variance,
        objective=None if best is None else each.value / best,
        primal_multiplicity=m,
        primal_multiplicity_real=float(found.solved.primal_real[index]),
        primal_variance=each.variance,
        primal_parameters=found.part.count("parameters", widths, m),
        primal_relative_variance=each.value if math.isfinite(each.value) else None,
        primal_budget_share=found.part.count(measure, widths, m) / found.constraints.budget.most,
        primal_standard_error=each.standard_error if math.isfinite(each.standard_error) else None,
    )


def _judged(
    found: Found, primal: SolvedEnsemble | None, dual: SolvedEnsemble | None
) -> tuple[Outcome, tuple[Outcome, ...]]:
    if not found.rows:
        return _infeasible(found), ()
    uncertain = _uncertain(found)
    if found.primal is None and found.dual is None:
        if uncertain is not None:
            return uncertain, ()
        message = "No grouping that was measured has less variance than the baseline at its budget, or is cheaper."
        return Outcome(kind="baseline_is_optimal", message=message), ()
    said = []
    if found.primal is not None and primal is not None:
        said.append(f"{_varies(found.primal)} at {100 * (primal.budget_share or 0):.1f} % of the budget")
    if found.dual is not None and dual is not None:
        unit = "FLOPs" if found.constraints.measure == "flops" else "parameters"
        said.append(f"{_varies(found.dual)} with {dual.efficiency:.2f} times fewer {unit}")
    notes = [uncertain] if uncertain is not None else []
    if found.primal is not None and abs(found.primal.value - 1) < 2 * found.primal.standard_error:
        notes.append(
            Outcome(
                kind="network_uncertain",
                message=f"{found.primal.candidate.label} cannot be told from the baseline: its ratio is within two "
                "standard errors of 1.",
                remedy="Raise network.max_seconds, or lower network.relative_error.",
            )
        )
    return Outcome(kind="found", message="; ".join(said)), tuple(notes)


def _varies(each: Ratio) -> str:
    return (
        f"{each.candidate.label} has {100 * each.value:.0f} ± {100 * each.standard_error:.0f} % of the baseline's "
        "variance as a whole network"
    )


def _uncertain(found: Found) -> Outcome | None:
    chosen = [each for each in (found.primal, found.dual) if each is not None] or [each for _, each in found.rows]
    if all(each.converged for each in chosen):
        return None
    reached = max(each.standard_error / each.value if each.value > 0 else math.inf for each in chosen)
    known = f"are known to {100 * reached:.0f} %" if math.isfinite(reached) else "are not known"
    return Outcome(
        kind="not_converged" if found.primal is None and found.dual is None else "network_uncertain",
        message=f"Draws ended before every ratio reached the error asked for: they {known}.",
        remedy="Raise network.max_seconds or network.relative_error, or lower network.images.",
    )


def _infeasible(found: Found) -> Outcome:
    limits = ", ".join(f"{limit.field} of {grouped(limit.most)} {limit.measure}" for limit in found.constraints.limits)
    kind = "infeasible_space" if not found.solved.widths else "infeasible_budget"
    return Outcome(
        kind=kind,
        message=f"No two members of any width in the space fit the {limits}.",
        remedy="Lower space.min_width, or raise the budget.",
    )


def _left(part: MeasuredPart) -> tuple[Outcome, ...]:
    left = part.unsearched
    if not left:
        return ()
    return (Outcome(kind="parts_unsearched", message=f"Left as they are: {'. '.join(left)}."),)
