"""How a search ended: one outcome, further notes, and a remedy for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from collegium.search.curve.source import Smooth
from collegium.search.curve.surface import Surface
from collegium.search.estimate.unconverged import unconverged
from collegium.search.optimize.built import is_baseline
from collegium.search.outcomes import feasibility
from collegium.search.outcomes.evidence import Evidence, at_cost, fewer, saves, varies
from collegium.search.part import named_widths
from collegium.search.result import MemberWidths, Outcome, OutcomeKind

#: Relative miss of ln r by the fitted line from which a note is added.
POOR_LINE = 0.1
#: Least share of the variance of ln r that a line must explain.
POOR_R_SQUARED = 0.9
#: χ² per degree of freedom from which a smooth curve misses its points.
POOR_CHI_SQUARED = 6.0

#: Findings by weight: the first is the outcome, the others are notes.
ORDER: tuple[OutcomeKind, ...] = (
    "unbounded_variance",
    "infeasible_budget",
    "infeasible_space",
    "nothing_to_gain",
    "not_converged",
    "check_disagrees",
    "verification_disagrees",
    "poor_fit",
    "edge_of_space",
    "baseline_is_optimal",
    "single_member",
    "check_inconclusive",
    "verification_inconclusive",
    "over_budget",
    "dual_rounded",
    "stages_unknown",
    "equal_groups",
    "times_disagree",
    "parts_unsearched",
)
#: Findings that leave the answer what it is: never the outcome, always a note.
NOTES: frozenset[OutcomeKind] = frozenset(
    {
        "check_inconclusive",
        "verification_inconclusive",
        "over_budget",
        "dual_rounded",
        "stages_unknown",
        "equal_groups",
        "times_disagree",
        "parts_unsearched",
    }
)


def judge(evidence: Evidence) -> tuple[Outcome, tuple[Outcome, ...]]:
    """The outcome and further notes; a poor α line alone is a note, because the curve is not drawn by it."""
    judged = [outcome for rule in RULES if (outcome := rule(evidence)) is not None]
    judged.sort(key=lambda outcome: ORDER.index(outcome.kind))
    ending = [outcome for outcome in judged if outcome.kind not in NOTES]
    notes = [outcome for outcome in judged if outcome.kind in NOTES]
    outcome = ending[0] if ending else _found(evidence)
    return outcome, (*ending[1:], *notes, *_line_notes(evidence))


def _found(evidence: Evidence) -> Outcome:
    primal, dual = evidence.ensembles
    parts = []
    if primal is not None:
        parts.append(f"{varies(primal)} {at_cost(evidence, primal)}")
    if dual is not None and is_baseline(evidence.solved, dual):
        parts.append(f"no ensemble as smooth as the baseline has {fewer(evidence)}")
    elif dual is not None:
        of = "it" if parts else "the baseline's variance"
        parts.append(f"{varies(dual, of)} {saves(evidence, dual)}")
    return Outcome(kind="found", message="; ".join(parts))


def _check(evidence: Evidence) -> Outcome | None:
    check = evidence.check
    if check is None or check.agreement == "agree":
        return None
    if check.agreement == "disagree":
        return Outcome(
            kind="check_disagrees",
            message=f"The Monte Carlo check is {check.largest:.1f} standard errors from the closed form.",
            remedy="Run again with another seed; if it stays so, report it with this specification.",
        )
    unclear = [point for point in check.points if point.agreement == "cannot_tell"]
    return Outcome(
        kind="check_inconclusive",
        message=f"The Monte Carlo check of the closed form cannot tell at {_named_widths(unclear)}: the kernel's tail "
        "is so heavy there that a deviation of a tenth would not show. The answer rests on the closed form.",
        remedy="Widen the baseline, or set space.min_width, for members that a check can reach.",
    )


def _verification(evidence: Evidence) -> Outcome | None:
    verification = evidence.verification
    if verification is None:
        return _unverified(evidence)
    if verification.agreement == "agree":
        return None
    if verification.agreement == "disagree":
        return Outcome(
            kind="verification_disagrees",
            message="The built ensemble's variance is more than four standard errors from the prediction.",
            remedy="Lower estimator.relative_error, or use the closed form where there is one.",
        )
    sides = (verification.primal, verification.dual)
    unclear = [side for side in sides if side is not None and side.agreement == "cannot_tell"]
    return Outcome(
        kind="verification_inconclusive",
        message=f"Measuring the built ensemble cannot tell at {_named_widths(unclear)}: its kernel's tail is so heavy "
        "that a deviation of a quarter from the predicted variance would not show.",
        remedy="Verify an ensemble of wider members, whose kernel varies less.",
    )


def _unverified(evidence: Evidence) -> Outcome | None:
    """A measurement of the answers that was asked for, and that no chain can be built for."""
    if evidence.problem.spec.verify is not True or not any(evidence.ensembles):
        return None
    return Outcome(
        kind="verification_inconclusive",
        message="The answers were not measured: members whose first or last layer is grouped, or whose dense layer "
        "reads a map that is not square, cannot be built as one chain.",
        remedy="Give verify: 'network', which measures the module as it is trained.",
    )


def _named_widths(members: Sequence[MemberWidths]) -> str:
    return "width " + " and ".join(dict.fromkeys(named_widths(member.widths) for member in members))


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


def _line_notes(evidence: Evidence) -> tuple[Outcome, ...]:
    """A fitted α that is a poor summary, where the curve is drawn without it."""
    alpha = evidence.alpha
    if alpha.value is None:
        return (
            Outcome(
                kind="poor_fit",
                message="There is no α: no member that was sampled in the fit's window has converged.",
                remedy="Widen estimator.window, or see that more members converge.",
            ),
        )
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


RULES: tuple[Callable[[Evidence], Outcome | None], ...] = (
    feasibility.space,
    feasibility.budget,
    feasibility.costs,
    feasibility.single_layer,
    unconverged,
    _check,
    _verification,
    _poor_fit,
    feasibility.edge,
    feasibility.baseline,
    feasibility.single_member,
    feasibility.over_budget,
    feasibility.dual_rounded,
    feasibility.stages_unknown,
    feasibility.equal_groups,
    feasibility.times,
    feasibility.parts_unsearched,
)
