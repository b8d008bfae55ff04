"""The search of an attention block: the curve over the width of its heads, and neither a primal nor a dual."""

from __future__ import annotations

import time
from typing import Any

from collegium.search.attention.heads import NOTE, HeadCurve, HeadRow, head_curve
from collegium.search.errors import InvalidSpec
from collegium.search.networks.families.attention import AttentionNetwork
from collegium.search.progress import Report
from collegium.search.result import (
    Alpha,
    BaselineSummary,
    CurveRow,
    NearOptimal,
    Outcome,
    SearchResult,
)
from collegium.search.spec import SearchSpec
from collegium.versions import versions

#: What a block's search takes of a specification, beside its baseline and ``efficiency``.
TAKEN = {"estimator": ("method", "relative_error", "seed", "reuse")}
#: What a baseline has in the place of another field.
HINTS: dict[tuple[str, ...], str] = {
    ("inputs", "correlation"): "give baseline.correlation, that of each two tokens",
    ("space", "min_width"): "give baseline.min_width",
}
TOLERANCE = 0.025


def check_block(spec: SearchSpec) -> None:
    """Refuse fields that have no meaning for one block. Raises ``InvalidSpec``."""
    if spec.efficiency in ("latency", "memory"):
        raise InvalidSpec(("efficiency",), "an attention block has no module to time: use 'parameters' or 'flops'")
    if spec.estimator.method not in ("auto", "monte_carlo"):
        raise InvalidSpec(("estimator", "method"), "the kernel of attention is sampled: use 'auto' or 'monte_carlo'")
    given: dict[tuple[str, ...], Any] = {
        (name,): getattr(spec, name)
        for name in ("budget", "max_parameters", "max_flops", "max_latency_ms", "max_memory_bytes", "workload")
    }
    for group in ("inputs", "space", "estimator"):
        own = getattr(spec, group)
        for name in own.model_fields_set - set(TAKEN.get(group, ())):
            if getattr(own, name) != type(own).model_fields[name].get_default():
                given[group, name] = True
    given["verify",] = spec.verify or None
    for path, value in given.items():
        if value is not None:
            hint = HINTS.get(path, "leave it out")
            raise InvalidSpec(path, f"every division of an attention block costs the same, and is measured: {hint}")


def search_block(spec: SearchSpec, network: AttentionNetwork, report: Report, device: str) -> SearchResult:
    """Var(K) / E[K]² of every division of the block into heads, widest first.

    The outcome is ``no_optimum``: heads bring no cost, so the curve falls to the floor that was set or is flat before.
    """
    started, block, estimator = time.perf_counter(), network.block, spec.estimator
    found = head_curve(
        block.heads,
        block.width,
        min_width=block.min_width,
        tokens=block.tokens,
        correlation=block.correlation,
        relative_error=max(1e-3, estimator.relative_error),
        seed=estimator.seed,
        device=device,
        report=report,
    )
    own = next(row for row in found.rows if row.width == block.width)
    outcome, notes = _judged(found, own)
    flat = tuple((row.width,) for row in found.rows if row.width <= found.flat_from)
    return SearchResult(
        title=network.title,
        space="scaled",
        method="monte_carlo",
        variance_from="sampled",
        measure=spec.efficiency,
        budget=network.count("flops" if spec.efficiency == "flops" else "parameters", (block.width,), block.heads),
        alpha=Alpha(method="monte_carlo"),
        baseline=BaselineSummary(
            widths=network.baseline,
            title=network.title,
            multiplicity=block.heads,
            variance=own.variance if own.converged else None,
            parameters=network.count("parameters", network.baseline, block.heads),
            flops=network.count("flops", network.baseline, block.heads),
        ),
        curve=tuple(_row(network, row, found) for row in found.rows),
        near_optimal=NearOptimal(
            tolerance=TOLERANCE,
            min_width=flat[-1][0],
            max_width=flat[0][0],
            members=flat,
        ),
        outcome=outcome,
        notes=notes,
        seed=estimator.seed,
        samples=sum(row.samples for row in found.rows),
        device=device,
        versions=versions("numpy", "torch"),
        seconds=time.perf_counter() - started,
        subject=network.subject,
        budget_tolerance=0.0,
    )


def _row(network: AttentionNetwork, row: HeadRow, found: HeadCurve) -> CurveRow:
    least = min(each.variance for each in found.rows)
    relative = None if row.standard_error is None else row.standard_error * row.relative_variance / row.variance
    return CurveRow(
        widths=(row.width,),
        inverse_fan_in_sum=network.inverse_fan_in_sum((row.width,)),
        variance=row.variance * row.heads,
        objective=row.variance / least,
        primal_multiplicity=row.heads,
        primal_multiplicity_real=float(row.heads),
        primal_variance=row.variance,
        primal_parameters=network.count("parameters", (row.width,), row.heads),
        primal_relative_variance=row.relative_variance,
        primal_budget_share=1.0,
        primal_standard_error=relative,
    )


def _judged(found: HeadCurve, own: HeadRow) -> tuple[Outcome, tuple[Outcome, ...]]:
    last = found.rows[-1]
    flat = (
        f"it is flat from width {found.flat_from} down"
        if found.flat_from > last.width
        else f"it falls to the narrowest that was allowed, {last.width}"
    )
    message = (
        f"Every division into heads costs the same, so there is no optimum, but a curve: {own.heads} × {own.width} has "
        f"the variance {own.variance:.3g}, {last.heads} × {last.width} {100 * last.relative_variance:.0f} % of it, and "
        f"{flat}. {NOTE}"
    )
    remedy = "Take the widest heads of near_optimal, or wider ones where they must express more."
    outcome = Outcome(kind="no_optimum", message=message, remedy=remedy)
    missed = [row for row in found.rows if not row.converged]
    if not missed:
        return outcome, ()
    widths = ", ".join(str(row.width) for row in missed)
    note = Outcome(
        kind="not_converged",
        message=f"The variance at the widths {widths} is less certain than was asked.",
        remedy="Raise estimator.relative_error, or baseline.min_width.",
    )
    return outcome, (note,)
