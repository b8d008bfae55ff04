"""A search that measures: the module at hand, as it is and regrouped, drawn again and again at initialization.

For every other method a branch must consist of layers whose kernel is known. Here nothing need be known: K(x, x) of the
whole network is formed by autograd, over all parameters, with whatever stands in the branches. It takes draws, hundreds
for each candidate, and so minutes where the others take a second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from collegium.search.describe.as_written import as_written
from collegium.search.errors import InvalidSpec
from collegium.search.progress import Report, discard, scaled
from collegium.search.result import SearchResult, SolvedEnsemble
from collegium.search.several.shares import part_spec
from collegium.search.several.together import combined
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.measure import network_rows, statement
from collegium.search.whole_network.plain.group import search_group
from collegium.search.whole_network.plain.inputs import (
    batch_of,
    described_network,
    network_spec,
    text_of_batch,
)
from collegium.search.whole_network.plain.measuring import Measuring
from collegium.search.whole_network.plain.module import OwnCandidate, Subject
from collegium.search.whole_network.plain.part import MeasuredPart, measured_parts, not_measured
from collegium.search.whole_network.plain.result import group_result, nothing_to_measure
from collegium.search.whole_network.result import MeasuredNetwork, NetworkVerification
from collegium.search.whole_network.verification import network_notes

#: Share of the time for the groups; the rest measures the answers by draws that chose nothing.
SEARCHED = 0.8
#: What a module may raise for inputs that it does not take.
REFUSED = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError)


@as_written()
def search_module(
    spec: SearchSpec, model: nn.Module, example_input: Any = None, *, report: Report = discard, device: str = "cpu"
) -> SearchResult:
    """The m × n of every group of branches of ``model``, by the whole network's measured variance.

    ``spec.baseline`` is the description of this model. ``spec.network`` says what is measured and for how long, and
    ``spec.estimator.seed`` gives the draws; the answers' final figures, ``network`` of the result, are of draws that
    did not choose them. ``report`` receives what one draw costs before the search, and ends it by raising.

    Raises ``InvalidSpec`` with the path of the field or argument that is wrong.
    """
    started = time.perf_counter()
    described = described_network(spec)
    batch, call = batch_of(example_input, described, model, spec)
    network = network_spec(spec, batch.count)
    try:
        subject = Subject.of(model, described, batch, call, network)
    except REFUSED as error:
        if isinstance(error, InvalidSpec):
            raise
        hint = "give a batch of real samples as 'example_input'" if example_input is None else "see its own message"
        raise InvalidSpec(("example_input",), f"the module does not take it ({error}): {hint}") from error
    parts = measured_parts(described)
    if not parts:
        left = [f"{each.name}: {not_measured(each)}" for each in described.branches]
        return nothing_to_measure(spec, tuple(left), device)
    report, own = _rising(report), (parts[0].baseline, parts[0].multiplicity)
    begun = scaled(report, 0.0, 0.02)
    measuring = Measuring.begin(subject, batch, network, own, spec.estimator.seed, device, begun)
    found = _groups(parts, spec, measuring, report)
    result = found[0] if len(parts) == 1 else combined(spec, parts, found)
    result = _with_network(result, parts, measuring, scaled(report, SEARCHED, 1.0))
    result = result.model_copy(update={"seconds": max(0.0, time.perf_counter() - started)})
    report(1.0, result.outcome.message)
    return result


def _rising(report: Report) -> Report:
    """A report whose fractions never fall: how many stages there will be is not known before."""
    reached = 0.0

    def rising(fraction: float, message: str) -> None:
        nonlocal reached
        reached = max(reached, fraction)
        report(reached, message)

    return rising


def _groups(
    parts: Sequence[MeasuredPart], spec: SearchSpec, measuring: Measuring, report: Report
) -> list[SearchResult]:
    found, step = [], SEARCHED / len(parts)
    for index, part in enumerate(parts):
        begun = time.perf_counter()
        begin, end = index * step, (index + 1) * step
        own = spec if len(parts) == 1 else part_spec(spec, parts, part)
        group = search_group(part, own, measuring, begin, end, scaled(report, max(0.02, begin), end))
        found.append(group_result(group, own, measuring, time.perf_counter() - begun))
    return found


def _with_network(
    result: SearchResult, parts: Sequence[MeasuredPart], measuring: Measuring, report: Report
) -> SearchResult:
    """The result with its answers measured anew, whose variances are these."""
    answers = {name: answer for name in ("primal", "dual") if (answer := getattr(result, name)) is not None}
    candidates = [_candidate(name, answer, parts, measuring) for name, answer in answers.items()]
    error = measuring.spec.relative_error
    measuring.ratios(candidates, error, 1.0, report, seed=measuring.seed + 1)
    rows = network_rows([measuring.baseline, *candidates], measuring.latest, measuring.spec)
    verification = _verification(rows, measuring)
    by_name = {row.name: row for row in rows}
    changed: dict[str, Any] = {
        name: answer.model_copy(update=_measured(by_name[name])) for name, answer in answers.items()
    }
    changed["recommended"] = changed.get("primal")
    notes = (*result.notes, *network_notes(verification))
    samples = result.samples + sum(row.draws for row in rows)
    return result.model_copy(update={**changed, "network": verification, "notes": notes, "samples": samples})


def _measured(row: MeasuredNetwork) -> dict[str, Any]:
    return {"variance": row.relative_variance, "relative_variance": row.ratio}


def _candidate(name: str, answer: SolvedEnsemble, parts: Sequence[MeasuredPart], measuring: Measuring) -> OwnCandidate:
    """The whole network of an answer; branches that stay as they are are not regrouped."""
    regrouped = {each.paths: each for each in answer.branches}
    groupings = []
    for branch in (branch for part in parts for branch in part.branches):
        own = regrouped.get(branch.paths)
        if own is not None and (own.multiplicity, own.multiplicity * sum(own.widths)) != (
            branch.multiplicity,
            sum(branch.widths[1:-1]),
        ):
            free = tuple(own.widths[first - 1] for first, *_ in branch.free)
            groupings.append((branch.name, own.multiplicity, free))
    return measuring.candidate(name, answer.widths, answer.multiplicity, answer.parameters, tuple(groupings))


def _verification(rows: tuple[MeasuredNetwork, ...], measuring: Measuring) -> NetworkVerification:
    spec, subject, shape = measuring.spec, measuring.subject, measuring.batch.shapes[0]
    inputs = text_of_batch(measuring.batch, subject.call, subject.described)
    return NetworkVerification(
        networks=rows,
        outcome="measured" if all(row.converged for row in rows) else "not_converged",
        statement=statement(rows, spec, measuring.normed, inputs, subject.reading),
        parameterization=spec.parameterization,
        norm="batch" if measuring.normed else "none",
        images=spec.images,
        inputs=spec.inputs,
        outputs=min(spec.outputs, subject.outputs),
        sample_shape=shape,
        pixels=shape[-1] if len(shape) == 3 else None,
        correlation=None,
        relative_error=spec.relative_error,
        device=measuring.device,
        seed=measuring.seed + 1,
        seconds=max(0.0, measuring.clock() - measuring.started),
        core_seconds=measuring.spent,
    )
