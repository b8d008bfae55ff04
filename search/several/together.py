"""The answers of a network's parts as one answer."""

from __future__ import annotations

from collections.abc import Sequence

from collegium.search.networks.network import Measure, Network
from collegium.search.result import BranchResult, Outcome, SearchResult, SolvedEnsemble, StageVariance
from collegium.search.several.shares import given_limits, members_cost
from collegium.search.spec import SearchSpec


def combined(spec: SearchSpec, parts: Sequence[Network], found: Sequence[SearchResult]) -> SearchResult:
    """One result: the largest part's, with the answers of all parts together and each part's own."""
    first = found[0]
    budget, limits = given_limits(spec, ("budget",)), given_limits(spec, ("max_parameters", "max_flops"))
    primal, dual, recommended = (
        _together(spec, parts, found, [getattr(each, name) for each in found], bound)
        for name, bound in (("primal", [*budget, *limits]), ("dual", limits), ("recommended", [*budget, *limits]))
    )
    branches = tuple(
        BranchResult(
            names=part.names,
            parameters=members_cost(part, "parameters"),
            flops=members_cost(part, "flops"),
            result=each,
        )
        for part, each in zip(parts, found, strict=True)
    )
    outcome, notes = _judged(parts, found)
    return first.model_copy(
        update={
            "primal": primal,
            "dual": dual,
            "recommended": recommended,
            "budget": spec.budget if spec.budget is not None else first.budget,
            "outcome": outcome,
            "notes": notes,
            "samples": sum(each.samples for each in found),
            "reused": sum(each.reused for each in found),
            "seconds": sum(each.seconds for each in found),
            "subject": "the kernel of one branch of each part at initialization, not of the network",
            "branches": branches,
        }
    )


def _together(
    spec: SearchSpec,
    parts: Sequence[Network],
    found: Sequence[SearchResult],
    answers: Sequence[SolvedEnsemble | None],
    limits: Sequence[tuple[Measure, int]],
) -> SolvedEnsemble | None:
    """The network with every part's answer; a part without one stays as it is.

    None where no part has any, or what stays as it is exceeds a limit that was given.
    """
    if not any(answers):
        return None
    first = parts[0]
    counts: dict[Measure, int] = {}
    measures: tuple[Measure, ...] = ("parameters", "flops")
    for measure in measures:
        own = first.count(measure, first.baseline, first.multiplicity)
        counts[measure] = own + sum(getattr(answer, measure) - own for answer in answers if answer is not None)
    if not all(answers) and any(counts[measure] > most for measure, most in limits):
        return None
    measure: Measure = "flops" if spec.efficiency == "flops" else "parameters"
    whole = first.count(measure, first.baseline, first.multiplicity)
    groups = [_stages(*each) for each in zip(parts, found, answers, strict=True)]
    stages = tuple(stage for group in groups for stage in group)
    ratios = [stage.relative_variance for stage in stages if stage.relative_variance is not None]
    labels = [
        f"{part.multiplicity}×{part.baseline[0]}" if answer is None else answer.label
        for part, answer in zip(parts, answers, strict=True)
    ]
    return SolvedEnsemble(
        widths=stages[0].widths,
        multiplicity=stages[0].multiplicity,
        multiplicity_real=float(stages[0].multiplicity if answers[0] is None else answers[0].multiplicity_real),
        variance=stages[0].variance,
        parameters=counts["parameters"],
        flops=counts["flops"],
        efficiency=whole / counts[measure],
        relative_variance=max(ratios, default=None),
        budget_share=counts[measure] / (spec.budget or whole),
        stages=stages,
        label="; ".join(labels),
        uniform=False,
        branches=tuple(branch for answer in answers if answer is not None for branch in answer.branches),
    )


def _stages(part: Network, found: SearchResult, answer: SolvedEnsemble | None) -> tuple[StageVariance, ...]:
    if answer is None:
        single = found.baseline.variance or 0.0
        return (
            StageVariance(widths=part.baseline, multiplicity=part.multiplicity, variance=single, relative_variance=1.0),
        )
    if answer.stages:
        return answer.stages
    return (
        StageVariance(
            widths=answer.widths,
            multiplicity=answer.multiplicity,
            variance=answer.variance,
            relative_variance=1.0 if answer.relative_variance is None else answer.relative_variance,
        ),
    )


def _judged(parts: Sequence[Network], found: Sequence[SearchResult]) -> tuple[Outcome, tuple[Outcome, ...]]:
    """Found where any part is; notes are those of all parts, once each, with the part that they are of."""
    ended = [(_named(part), each.outcome) for part, each in zip(parts, found, strict=True)]
    message = ". ".join(f"{name}: {outcome.message.rstrip('.')}" for name, outcome in ended)
    good = [outcome for _, outcome in ended if outcome.kind == "found"]
    kind = "found" if good else ended[0][1].kind
    remedy = None if good else ended[0][1].remedy
    notes: list[Outcome] = []
    for (name, outcome), each in zip(ended, found, strict=True):
        own = [note for note in each.notes if note.kind != "parts_unsearched"]
        if good and outcome.kind != "found":
            own.insert(0, outcome)
        notes += [note.model_copy(update={"message": f"{name}: {note.message}"}) for note in own]
    notes += [note for note in found[0].notes if note.kind == "parts_unsearched"]
    return Outcome(kind=kind, message=message, remedy=remedy), tuple(notes)


def _named(part: Network) -> str:
    return part.names[0] + (f" and {len(part.names) - 1} more" if len(part.names) > 1 else "")
