"""Outcomes of the solved problems: spaces and budgets that nothing fits, and answers that are no gain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collegium.counted import counted
from collegium.search.curve.source import Exact, Smooth
from collegium.search.curve.surface import Surface
from collegium.search.latency.limits import COSTS, shown
from collegium.search.latency.result import WholeCheck
from collegium.search.optimize.built import is_baseline, label_of
from collegium.search.optimize.limits import Limit
from collegium.search.optimize.variances import LARGEST_LOG_RATIO
from collegium.search.outcomes.evidence import Evidence, named, percent, saves, varies
from collegium.search.part import named_widths
from collegium.search.result import Outcome
from collegium.search.text import grouped

#: Relative deviation of the sum over a network's parts from which it is said.
MOST_DEVIATION = 0.15


def space(evidence: Evidence) -> Outcome | None:
    """No member can be evaluated, for one of three reasons, or none reaches the baseline's variance."""
    solved, problem = evidence.solved, evidence.problem
    if not solved.widths and problem.members and (evidence.missed or not evidence.baseline_known):
        return None  # that is a matter of samples, not of the space
    if not solved.widths and not problem.members:
        return Outcome(
            kind="infeasible_space",
            message="The space holds no member that can be evaluated.",
            remedy="Widen min_width … max_width, or lower multiple_of.",
        )
    if _too_deep(evidence):
        return Outcome(
            kind="unbounded_variance",
            message=f"The baseline's own kernel has ln r = {_baseline_log_ratio(evidence):.3g} at initialization (r = "
            f"E[K²]/E[K]²; up to {LARGEST_LOG_RATIO:g} is considered): it is too deep for its width, and every "
            "narrower member varies more.",
            remedy="Widen the baseline's hidden layers, or take fewer of them.",
        )
    if not solved.widths:
        return Outcome(
            kind="infeasible_space",
            message=f"Every member of the space is so narrow that its kernel's ln r exceeds {LARGEST_LOG_RATIO:g}.",
            remedy="Allow wider members: raise space.max_width, or list wider ones in space.widths.",
        )
    if evidence.ensembles[1] is None and problem.network.grouping_matters:
        return _unreached(evidence)
    return None


def _too_deep(evidence: Evidence) -> bool:
    """Whether the baseline varies beyond what is considered, and so does all that the limits would allow."""
    if not evidence.baseline_known or _baseline_log_ratio(evidence) <= LARGEST_LOG_RATIO:
        return False
    return not evidence.solved.widths or (evidence.ensembles[0] is None and _fits_unknown(evidence))


def _fits_unknown(evidence: Evidence) -> bool:
    """Whether the limits allow a member whose variance is beyond what is considered, or not known."""
    solved, known = evidence.solved, set(evidence.solved.widths)
    network, limits = solved.constraints.network, solved.constraints.limits
    return any(
        widths not in known and all(network.count(one.measure, widths, 1) <= one.bound for one in limits)
        for widths in evidence.problem.members
    )


def _baseline_log_ratio(evidence: Evidence) -> float:
    constraints = evidence.solved.constraints
    return math.log1p(constraints.baseline_variance * constraints.network.multiplicity)


def _unreached(evidence: Evidence) -> Outcome:
    """No dual: no member reaches the baseline's variance within the limits."""
    constraints = evidence.solved.constraints
    fields = [limit.field for limit in constraints.limits[1:]]
    if evidence.costed is not None and evidence.problem.costs_decide:
        fields = [limit.field for limit in evidence.costed.limits[1:]]
    if constraints.max_multiplicity is not None:
        fields.append("space.max_multiplicity")
    within = f" within {' and '.join(fields)}" if fields else ""
    remedy = f"Raise {' or '.join(fields)}, or allow wider members." if fields else "Allow wider members."
    if _nothing_fits(evidence):
        remedy = f"Raise {' or '.join(fields)}."
    return Outcome(
        kind="infeasible_space",
        message=f"No member of the space reaches the baseline's variance{within}.",
        remedy=remedy,
    )


def _nothing_fits(evidence: Evidence) -> bool:
    """Whether a limit of primal and dual alike is below the least cost of all."""
    solved = evidence.solved
    return any(solved.costs[limit.measure].at(1.0).min() > limit.bound for limit in solved.constraints.limits[1:])


def budget(evidence: Evidence) -> Outcome | None:
    """No member fits: the least feasible cost in every limit that none meets, and the member that has it."""
    solved = evidence.solved
    if not solved.widths or solved.primal_optimum is not None or evidence.ensembles[0] is not None:
        return None
    constraints = solved.constraints
    which, narrower = "member of the space", ", or allow narrower members"
    if min(map(min, solved.widths)) == 1:
        narrower = ""
    if evidence.narrower_unknown:
        what = "variance is known" if evidence.sampled else f"ln r is at most {LARGEST_LOG_RATIO:g}"
        which = f"member whose {what} (width {named_widths(min(solved.widths))} and wider)"
        narrower = _narrower(evidence)
    missed = [
        (limit, costs, int(np.argmin(costs)))
        for limit in constraints.limits
        for costs in [solved.costs[limit.measure].at(1.0)]
        if costs.min() > limit.bound
    ]
    if not missed:
        fields = " and ".join(_field(limit) for limit in constraints.limits)
        return Outcome(
            kind="infeasible_budget",
            message=f"No {which} meets {fields} at once, though each is met by some.",
            remedy=f"Raise one of them{narrower}.",
        )
    parts = [
        f"{_field(limit)} of {grouped(limit.most)} {COSTS[limit.measure]} (the least is {grouped(costs[index])}, by "
        f"1×{named_widths(solved.widths[index])})"
        for limit, costs, index in missed
    ]
    raised = " and ".join(f"{limit.field} to at least {_least(costs[index])}" for limit, costs, index in missed)
    return Outcome(
        kind="infeasible_budget",
        message=f"No {which} fits {' and '.join(parts)}.",
        remedy=f"Raise {raised}{narrower}.",
    )


def _narrower(evidence: Evidence) -> str:
    """What else helps where there are members whose variance is not known, or too large."""
    return ", or list narrower members in space.widths" if evidence.sampled else ", or take fewer layers"


def costs(evidence: Evidence) -> Outcome | None:
    """None of the ensembles that were measured is within the limits, though some are within those that are counted."""
    costed, problem = evidence.costed, evidence.problem
    network = problem.network
    if costed is None or not problem.costs_decide or evidence.ensembles[0] is not None:
        return None
    if evidence.solved.primal_optimum is None:
        return None
    limits = list({(limit.field, limit.cost): limit for limit in costed.limits}.values())
    least = [min(costed.rows[1:] or costed.rows, key=lambda row: row.costs[limit.cost]) for limit in limits]
    above = [
        (limit, row)
        for limit, row in zip(limits, least, strict=True)
        if row.costs[limit.cost] > limit.most * (1 + limit.tolerance)
    ]
    missed = [
        f"{limit.field} of {shown(limit.cost, limit.most)} (the least is {shown(limit.cost, row.costs[limit.cost])}, "
        f"by {label_of(network, row.groupings(network))})"
        for limit, row in above
    ]
    fields = " and ".join(limit.field for limit in limits)
    raised = " and ".join(
        limit.field if limit.cost == "latency" else f"{limit.field} to at least {_least(row.costs[limit.cost])}"
        for limit, row in above
    )
    return Outcome(
        kind="infeasible_budget",
        message=f"None of the {counted(len(costed.rows), 'ensemble')} considered is within "
        f"{' and '.join(missed) if missed else f'{fields} at once'}.",
        remedy=f"Raise {raised or fields}, or allow narrower members.",
    )


def _least(cost: float) -> str:
    return grouped(math.ceil(cost))


def times(evidence: Evidence) -> Outcome | None:
    """A whole network that takes longer or less long than its parts were measured to take together."""
    return disagreeing(evidence.costed.front.checks) if evidence.costed is not None else None


def disagreeing(checks: Sequence[WholeCheck]) -> Outcome | None:
    """The check whose deviation is largest, where that is above 15 %."""
    worst = max(checks, key=lambda check: abs(check.deviation), default=None)
    if worst is None or abs(worst.deviation) <= MOST_DEVIATION:
        return None
    return Outcome(
        kind="times_disagree",
        message=f"The parts of {worst.label} take {worst.sum_ms:.3g} ms together, "
        f"and the whole network {worst.whole_ms:.3g} ms.",
        remedy="Measure again on a machine that is otherwise idle.",
    )


def _field(limit: Limit) -> str:
    return "a budget" if limit.field == "budget" else limit.field


def single_layer(evidence: Evidence) -> Outcome | None:
    """One free layer: grouping changes nothing."""
    network = evidence.problem.network
    if network.grouping_matters:
        return None
    if network.is_described and network.could_be_split:
        return Outcome(
            kind="nothing_to_gain",
            message="Nothing of this network is searched. " + _reasons(network.unsearched),
            remedy="In Python, find_ensemble(baseline, model=model) measures the module itself, whatever its layers "
            "are. Otherwise train it as it is.",
        )
    if network.is_described:
        return Outcome(
            kind="nothing_to_gain",
            message="Grouping has nothing to gain here. " + _reasons(network.unsearched),
            remedy="Nothing of this network can be split: train it as it is.",
        )
    return Outcome(
        kind="nothing_to_gain",
        message="Grouping has nothing to gain here: with a single free layer, m members of width n are one layer of "
        "width m·n.",
        remedy="Choose a baseline with two hidden layers or more, such as a bottleneck block.",
    )


#: Reasons that are named in one message.
NAMED_REASONS = 8


def parts_unsearched(evidence: Evidence) -> Outcome | None:
    """Parts of a described network that stay as they are."""
    network = evidence.problem.network
    if not network.unsearched or not network.grouping_matters:
        return None
    return Outcome(kind="parts_unsearched", message="Left as it is: " + _reasons(network.unsearched))


def _reasons(sentences: Sequence[str]) -> str:
    named = "; ".join(sentences[:NAMED_REASONS])
    more = len(sentences) - NAMED_REASONS
    return (
        f"{named}; and {more} more." if more > 0 else f"{named}." if named else "It has no layers that could be split."
    )


def edge(evidence: Evidence) -> Outcome | None:
    """n* at an end of the space that is not a natural one."""
    solved, network = evidence.solved, evidence.problem.network
    best = solved.optimum
    if best is None or not network.grouping_matters or len(solved.widths) < 2:
        return None
    if evidence.problem.spec.space.mode == "vector" or evidence.problem.spec.space.widths is not None:
        return None
    first = sorted(widths[0] for widths in solved.widths)
    at = solved.widths[best][0]
    if at == first[0] and evidence.narrower_unknown and not evidence.sampled:
        return None  # narrower ones vary beyond what is considered
    if at == first[0] and evidence.narrower_unknown:
        return Outcome(
            kind="edge_of_space",
            message=f"The optimum is at the narrowest member that was sampled, {at}; narrower ones may do better.",
            remedy="List narrower members in space.widths.",
        )
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


def baseline(evidence: Evidence) -> Outcome | None:
    """The baseline is the answer, or the space holds nothing that is as smooth."""
    primal, solved = evidence.ensembles[0], evidence.solved
    constraints = solved.constraints
    if primal is None or not constraints.network.grouping_matters:
        return None
    if is_baseline(solved, primal):
        if evidence.missed:
            return None  # one of those may be better
        within = f" within {100 * evidence.rounding:g} %" if evidence.rounding else ""
        return Outcome(
            kind="baseline_is_optimal",
            message=f"The baseline is the optimum already: no grouping of its cost{within} has less variance."
            + _cheaper(evidence),
        )
    if not constraints.baseline_allowed and constraints.rounds and (primal.relative_variance or 0.0) >= 1:
        return Outcome(
            kind="baseline_is_optimal",
            message="The baseline is smoother than every grouping that was allowed: the best of them, "
            f"{named(primal)}, has {percent(primal.relative_variance or 0.0)} of its variance.",
            remedy="Widen the space or its limits.",
        )
    return None


def _cheaper(evidence: Evidence) -> str:
    """The dual, where that is not the baseline."""
    dual = evidence.ensembles[1]
    if dual is None or is_baseline(evidence.solved, dual):
        return ""
    return f" {varies(dual, 'its variance')} {saves(evidence, dual)}."


def single_member(evidence: Evidence) -> Outcome | None:
    """One member, in every stage, is the best that the limits allow: no ensemble."""
    primal = evidence.ensembles[0]
    if primal is None or is_baseline(evidence.solved, primal):
        return None
    groupings = [primal] if primal.uniform else primal.stages
    if any(one.multiplicity > 1 for one in groupings):
        return None
    widths = ", ".join(named_widths(one.widths) for one in groupings)
    return Outcome(
        kind="single_member",
        message=f"A single network of width {widths} is the smoothest within the limits, with "
        f"{percent(primal.relative_variance or 0.0)} of the baseline's variance: no ensemble of two or more members is "
        "smoother there.",
        remedy="Raise the budget, or allow narrower members.",
    )


def over_budget(evidence: Evidence) -> Outcome | None:
    """The dual is bound by the baseline's variance, not by a budget that was given for the primal."""
    dual, spec = evidence.ensembles[1], evidence.problem.spec
    if spec.budget is None or dual is None or (dual.budget_share or 0.0) <= 1:
        return None
    return Outcome(
        kind="over_budget",
        message=f"The dual, {named(dual)}, costs {100 * ((dual.budget_share or 0.0) - 1):.1f} % more than the budget: "
        "the baseline's variance takes that much.",
        remedy=f"Give max_{spec.efficiency} to bind the dual as well.",
    )


def dual_rounded(evidence: Evidence) -> Outcome | None:
    """A published dual, whose m was rounded down."""
    dual = evidence.ensembles[1]
    if not evidence.solved.constraints.nearest_dual or dual is None or dual.multiplicity >= dual.multiplicity_real:
        return None
    return Outcome(
        kind="dual_rounded",
        message=f"For a given α the dual's m is the nearest integer, as published: {dual.multiplicity} for "
        f"{dual.multiplicity_real:.2f}. By that α it has {percent(dual.relative_variance or 0.0)} of the baseline's "
        "variance.",
        remedy="Use estimator.method 'auto' for a dual within the baseline's variance.",
    )


def stages_unknown(evidence: Evidence) -> Outcome | None:
    """Stages whose modules were too costly to sample."""
    known, all_ = len(evidence.solved.constraints.scales), len(evidence.problem.scales)
    if known == all_ or not evidence.solved.widths:
        return None
    return Outcome(
        kind="stages_unknown",
        message=f"Variances are known for {known} of {all_} stages; the answer holds for these.",
        remedy="Use the closed form, or allow more samples.",
    )


def equal_groups(evidence: Evidence) -> Outcome | None:
    """A grouped first layer reads other channels in each group, whose Gram matrices were taken for equal ones.

    Where one of each was given, they were so for the optimum at other correlations, which has none of them.
    """
    problem, chain = evidence.problem, evidence.problem.network.chain
    seen = f"the {chain.first_groups} groups of the first layer are assumed to see equal Gram matrices."
    if problem.inputs.assumes_equal_groups(chain):
        return Outcome(
            kind="equal_groups",
            message=seen[0].upper() + seen[1:],
            remedy="Give inputs.gram a matrix for each group where they differ.",
        )
    if chain.first_groups > 1 and problem.positions > 1 and isinstance(evidence.log_ratios, Exact | Smooth | Surface):
        return Outcome(kind="equal_groups", message=f"At other correlations {seen} The answer has one of each group.")
    return None
