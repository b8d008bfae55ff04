"""How a search ended: one outcome, further notes, and a remedy for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from collegium.search.curve.fit import Point
from collegium.search.curve.source import LogRatios, Smooth
from collegium.search.curve.surface import Surface
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.solve import Solved
from collegium.search.result import Alpha, Outcome, OutcomeKind, SolvedEnsemble, SpotCheck, Verification

#: Relative miss of ln r by the fitted line from which a note is added.
POOR_LINE = 0.1
#: Least share of the variance of ln r that a line must explain.
POOR_R_SQUARED = 0.9
#: χ² per degree of freedom from which a smooth curve misses its points.
POOR_CHI_SQUARED = 6.0

#: Findings by weight: the first is the outcome, the others are notes.
ORDER: tuple[OutcomeKind, ...] = (
    "infeasible_space",
    "infeasible_budget",
    "nothing_to_gain",
    "not_converged",
    "check_disagrees",
    "verification_disagrees",
    "poor_fit",
    "edge_of_space",
    "baseline_is_optimal",
)


@dataclass(frozen=True)
class Evidence:
    """Everything that an outcome depends on."""

    problem: GroupingProblem
    solved: Solved
    log_ratios: LogRatios
    alpha: Alpha
    points: Sequence[Point]
    check: SpotCheck | None = None
    verification: Verification | None = None
    ensembles: tuple[SolvedEnsemble | None, SolvedEnsemble | None] = field(default=(None, None))


def judge(evidence: Evidence) -> tuple[Outcome, tuple[Outcome, ...]]:
    """The outcome and further notes; a poor α line alone is a note, because the curve is not drawn by it."""
    judged = [
        outcome
        for rule in (
            _space,
            _budget,
            _single_layer,
            _not_converged,
            _check,
            _verification,
            _poor_fit,
            _edge,
            _baseline,
        )
        if (outcome := rule(evidence)) is not None
    ]
    judged.sort(key=lambda outcome: ORDER.index(outcome.kind))
    notes = _line_notes(evidence)
    if not judged:
        return _found(evidence), notes
    return judged[0], (*judged[1:], *notes)


def _found(evidence: Evidence) -> Outcome:
    primal, dual = evidence.ensembles
    parts = []
    if primal is not None:
        share = primal.variance / evidence.solved.constraints.baseline_variance
        parts.append(f"{_named(primal)} has {100 * share:.0f} % of the baseline's variance at its cost")
    if dual is not None:
        measure = evidence.problem.spec.efficiency
        share = dual.variance / evidence.solved.constraints.baseline_variance
        parts.append(f"{_named(dual)} has {100 * share:.0f} % of it with {dual.efficiency:.2f} times fewer {measure}")
    return Outcome(kind="found", message="; ".join(parts))


def _space(evidence: Evidence) -> Outcome | None:
    if not evidence.solved.widths:
        return Outcome(
            kind="infeasible_space",
            message="The space holds no member that can be evaluated.",
            remedy="Widen min_width … max_width, or lower multiple_of.",
        )
    if evidence.solved.dual_optimum is None:
        return Outcome(
            kind="infeasible_space",
            message="No member reaches the baseline's variance within max_multiplicity.",
            remedy="Raise space.max_multiplicity, or allow wider members.",
        )
    return None


def _budget(evidence: Evidence) -> Outcome | None:
    solved = evidence.solved
    if not solved.widths or solved.primal_optimum is not None:
        return None
    least = int((solved.fixed + solved.per_member).min())
    measure = evidence.problem.spec.efficiency
    return Outcome(
        kind="infeasible_budget",
        message=f"No member of the space fits a budget of {evidence.problem.budget:,} {measure}.",
        remedy=f"Raise the budget to at least {least:,}, or allow narrower members.",
    )


def _single_layer(evidence: Evidence) -> Outcome | None:
    if evidence.problem.network.grouping_matters:
        return None
    return Outcome(
        kind="nothing_to_gain",
        message="Grouping has nothing to gain here: with a single free layer, m members of width n are one layer of "
        "width m·n.",
        remedy="Choose a baseline with two hidden layers or more, such as a bottleneck block.",
    )


def _not_converged(evidence: Evidence) -> Outcome | None:
    missed = [point for point in evidence.points if not point.converged]
    if not missed:
        return None
    widths = ", ".join(_width(point.widths) for point in missed[:5])
    return Outcome(
        kind="not_converged",
        message=f"The estimate did not reach the asked error at {len(missed)} of {len(evidence.points)} members "
        f"({widths}), whose kernels have the heaviest tails.",
        remedy="Raise estimator.relative_error, or space.min_width to leave the narrowest members out.",
    )


def _check(evidence: Evidence) -> Outcome | None:
    if evidence.check is None or evidence.check.agrees:
        return None
    return Outcome(
        kind="check_disagrees",
        message=f"The Monte Carlo check is {evidence.check.largest:.1f} standard errors from the closed form.",
        remedy="Run again with another seed; if it stays so, report it with this specification.",
    )


def _verification(evidence: Evidence) -> Outcome | None:
    if evidence.verification is None or evidence.verification.agrees:
        return None
    return Outcome(
        kind="verification_disagrees",
        message="The built ensemble's variance is more than four standard errors from the prediction.",
        remedy="Lower estimator.relative_error, or use the closed form where there is one.",
    )


def _poor_fit(evidence: Evidence) -> Outcome | None:
    """A curve that misses what is known of it: a given α, or a smooth fit through sampled points."""
    miss = evidence.alpha.largest_relative_residual
    if evidence.alpha.method == "given" and miss is not None and miss > POOR_LINE:
        return Outcome(
            kind="poor_fit",
            message=f"The given α misses the exact ln r by up to {100 * miss:.0f} %, and the curve is drawn by it.",
            remedy="Use estimator.method 'auto' for the exact curve.",
        )
    if isinstance(evidence.log_ratios, Smooth | Surface):
        drawn = evidence.log_ratios
        curve = drawn.curve if isinstance(drawn, Smooth) else drawn
        if curve.degrees > 0 and curve.chi_squared > POOR_CHI_SQUARED * curve.degrees:
            return Outcome(
                kind="poor_fit",
                message="The smooth curve misses the sampled points by more than their errors.",
                remedy="List the members in space.widths, so that each is sampled itself.",
            )
    return None


def _edge(evidence: Evidence) -> Outcome | None:
    """n* at an end of the space that is not a natural one."""
    solved, network = evidence.solved, evidence.problem.network
    best = solved.optimum
    if best is None or not network.grouping_matters or len(solved.widths) < 2:
        return None
    if evidence.problem.spec.space.mode == "vector" or evidence.problem.spec.space.widths is not None:
        return None
    first = sorted(widths[0] for widths in solved.widths)
    at = solved.widths[best][0]
    if at == first[0] and at > 1:
        return Outcome(
            kind="edge_of_space",
            message=f"The optimum is at the narrowest member considered, {at}; narrower ones may do better.",
            remedy="Lower space.min_width or multiple_of.",
        )
    if at == first[-1] and solved.widths[best] != network.baseline:
        return Outcome(
            kind="edge_of_space",
            message=f"The optimum is at the widest member considered, {at}; wider ones may do better.",
            remedy="Raise space.max_width.",
        )
    return None


def _baseline(evidence: Evidence) -> Outcome | None:
    primal, network = evidence.ensembles[0], evidence.problem.network
    if primal is None or not network.grouping_matters:
        return None
    if (primal.widths, primal.multiplicity) != (network.baseline, network.multiplicity):
        return None
    return Outcome(
        kind="baseline_is_optimal",
        message="The baseline is the optimum already: no grouping of its cost has less variance.",
        remedy=None,
    )


def _line_notes(evidence: Evidence) -> tuple[Outcome, ...]:
    """A fitted α that is a poor summary, where the curve is drawn without it."""
    alpha = evidence.alpha
    miss, explained = alpha.largest_relative_residual, alpha.r_squared
    if alpha.method == "given" or miss is None or explained is None:
        return ()
    if miss <= POOR_LINE and explained >= POOR_R_SQUARED:
        return ()
    return (
        Outcome(
            kind="poor_fit",
            message=f"α is a rough summary here: α·s(n) misses ln r by up to {100 * miss:.0f} % in its "
            "window. The curve does not rest on it. On the part of s(n) that varies with the width the slope is "
            f"{alpha.slope:.2f}.",
            remedy="Narrow estimator.window for a line that holds over fewer widths.",
        ),
    )


def _named(answer: SolvedEnsemble) -> str:
    return f"{answer.multiplicity}×{_width(answer.widths)}"


def _width(widths: tuple[int, ...]) -> str:
    return str(widths[0]) if len(set(widths)) == 1 else f"({', '.join(map(str, widths))})"
