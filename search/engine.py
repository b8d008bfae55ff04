"""A search from its specification to its answer: the one entrance of this package for those who run it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.source import Exact, LogRatios, Smooth
from collegium.search.curve.surface import Surface
from collegium.search.estimate.alpha import alpha_of, exact_points
from collegium.search.estimate.sampled_curve import part_of, sample_correlations, sample_curve
from collegium.search.estimate.verification import spot_check, verify
from collegium.search.optimize.members import between
from collegium.search.optimize.near_optimal import near_optimal
from collegium.search.optimize.problem import Case, case_of
from collegium.search.optimize.solve import Solved
from collegium.search.optimize.uncertainty import CORRELATIONS, DRAWS, by_correlation, confidence
from collegium.search.optimize.vector import solve_vectors
from collegium.search.outcomes import Evidence, judge
from collegium.search.result import Baseline, Check, CorrelationRow, SearchResult, Verification
from collegium.search.sampling.estimation import Compute, Estimation, Report
from collegium.search.sampling.local import compute_here
from collegium.search.spec import SearchSpec


@dataclass(frozen=True)
class Curve:
    """ln r of the case, the points of the α fit, and the members considered."""

    log_ratios: LogRatios
    points: tuple[Point, ...]
    members: tuple[tuple[int, ...], ...]


def run(
    spec: SearchSpec,
    *,
    report: Report | None = None,
    known: Callable[[str], dict[str, Any] | None] | None = None,
    remember: Callable[[str, dict[str, Any]], None] | None = None,
    map_shards: Compute | None = None,
    device: str = "cpu",
    images: np.ndarray | None = None,
) -> SearchResult:
    """Answer a search.

    ``report(fraction, message)`` is told of progress and may raise to cancel. ``known(key)`` and
    ``remember(key, record)`` reach stored estimates of kernel entries. ``map_shards(shards, report)`` computes
    Monte Carlo shards elsewhere; without it they are computed here, on ``device``. ``images``, (images, channels,
    height, width), are what ``spec.inputs.data`` names.

    Raises ``InvalidSpec`` for a specification that is wrong; what is off with an answer is its ``outcome``.
    """
    started = time.perf_counter()
    tell = report or _silent
    tell(0.0, "reading the specification")
    case = case_of(spec, images)
    estimator = spec.estimator
    estimation = Estimation(
        relative_error=estimator.relative_error,
        seed=estimator.seed,
        samples=estimator.samples,
        compute=map_shards or compute_here(device),
        known=known,
        remember=remember,
    )
    curve = _curve(case, estimation, part_of(tell, 0.02, 0.7))
    solved = _solve(case, curve)
    tell(0.7, "solving the primal and the dual")
    correlations = _correlations(case, curve, estimation, part_of(tell, 0.7, 0.8))
    grouped = case.network.members_matter
    primal = solved.primal_answer(solved.primal) if grouped else None
    dual = solved.dual_answer(solved.dual) if grouped else None
    check = _check(case, solved, estimation, part_of(tell, 0.8, 0.9))
    verification: Verification | None = None
    if spec.verify:
        verification = verify(case, primal, dual, estimation, part_of(tell, 0.9, 1.0))
    alpha = alpha_of(case, curve.points)
    outcome, notes = judge(
        Evidence(case, solved, curve.log_ratios, alpha, curve.points, check, verification, (primal, dual))
    )
    network = case.network
    result = SearchResult(
        title=network.title,
        space="widths" if spec.space.widths is not None else spec.space.mode,
        method=alpha.method if curve.log_ratios.source != "closed_form" else "exact",
        variance_from=curve.log_ratios.source,
        measure=spec.efficiency,
        budget=case.budget,
        alpha=alpha,
        baseline=Baseline(
            widths=network.baseline,
            title=network.title,
            multiplicity=network.multiplicity,
            variance=solved.question.baseline_variance,
            parameters=network.count("parameters", network.baseline, network.multiplicity),
            flops=network.count("flops", network.baseline, network.multiplicity),
        ),
        primal=primal,
        dual=dual,
        curve=tuple(solved.row(index) for index in range(len(solved.widths))),
        near_optimal=near_optimal(solved, spec.tolerance) if grouped else None,
        confidence=_confidence(case, solved, curve) if grouped else None,
        correlations=correlations,
        check=check,
        verification=verification,
        outcome=outcome,
        notes=notes,
        seed=estimator.seed,
        samples=_samples(curve, check, verification),
        device=device,
        versions=versions(),
        seconds=time.perf_counter() - started,
    )
    tell(1.0, outcome.message)
    return result


def versions() -> dict[str, str]:
    """Versions of what an answer depends on."""
    found = {"python": platform.python_version()}
    for name in ("collegium", "numpy", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _silent(fraction: float, message: str) -> None:
    """Nobody listens."""


def _curve(case: Case, estimation: Estimation, report: Report) -> Curve:
    log_ratios = case.log_ratios
    if log_ratios is None:
        sampled = sample_curve(case, estimation, report)
        return Curve(sampled.log_ratios, sampled.points, sampled.members)
    return Curve(log_ratios, exact_points(case) if case.closed_form else (), case.members)


def _solve(case: Case, curve: Curve) -> Solved:
    """Both problems over the members, with gaps of a thinned range filled around the optimum, or over vectors."""
    solved = case.solve(curve.members, curve.log_ratios)
    space = case.spec.space
    if solved.optimum is None or space.widths is not None:
        return solved
    if space.mode == "vector":
        return solve_vectors(case, curve.log_ratios, solved)
    band = np.flatnonzero(solved.objective <= 1 + case.spec.tolerance)
    first = [widths[0] for widths in solved.widths]
    low, high = first[max(0, band.min() - 1)], first[min(len(first) - 1, band.max() + 1)]
    members = sorted({*solved.widths, *between(case.network, space, low, high)})
    return solved if len(members) == len(solved.widths) else case.solve(members, curve.log_ratios)


def _check(case: Case, solved: Solved, estimation: Estimation, report: Report) -> Check | None:
    """The short Monte Carlo check of method ``auto``: at the baseline, n*, and the recommended member."""
    if case.spec.estimator.method != "auto" or not case.closed_form:
        return None
    members = [case.network.baseline]
    band = near_optimal(solved, case.spec.tolerance)
    if solved.optimum is not None:
        members.append(solved.widths[solved.optimum])
    if band is not None:
        members.append(band.recommended.widths)
    return spot_check(case, members, estimation, report)


def _correlations(case: Case, curve: Curve, estimation: Estimation, report: Report) -> tuple[CorrelationRow, ...]:
    """n* under other inputs, among the members in the baseline's ratio; empty where one position is all there is."""
    members = curve.members
    if not members or case.positions == 1 or not case.network.members_matter:
        return ()
    if isinstance(curve.log_ratios, Exact):
        own = () if case.inputs.correlation is None else (case.inputs.correlation,)
        wanted: list[float] = sorted({*CORRELATIONS, *own})
        at = {c: case.at_correlation(c).exact for c in wanted}
    elif isinstance(curve.log_ratios, Smooth | Surface):
        at = sample_correlations(case, estimation, curve.points, report)
    else:
        return ()
    return by_correlation(
        question_at=lambda c: case.question(at[c]),
        widths=members,
        log_ratio_at=lambda c: at[c](np.array(members)),
        correlations=tuple(at),
    )


def _confidence(case: Case, solved: Solved, curve: Curve):
    generator = np.random.default_rng(case.spec.estimator.seed)
    redrawn = curve.log_ratios.redraw(np.array(solved.widths), generator, DRAWS) if solved.widths else None
    return confidence(solved, redrawn, case.spec.tolerance)


def _samples(curve: Curve, check: Check | None, verification: Verification | None) -> int:
    total = sum(point.samples for point in curve.points)
    total += sum(point.samples for point in check.points) if check else 0
    if verification:
        total += sum(side.samples for side in (verification.primal, verification.dual) if side)
    return total
