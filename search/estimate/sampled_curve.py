"""The curve by sampling: members spread over the space, and the smooth curve through those that converged.

Members are spread geometrically from the baseline down to where ln r is about one; narrower ones have so heavy a tail
that they would cost most of the samples. If the optimum is at that end, narrower ones are added. Where the baseline's
own variance cannot be found there is nothing to compare with, and no member is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.polynomial import fit_polynomial
from collegium.search.curve.smooth import fit_increasing, free_layers, keeps_variance, varying_sums
from collegium.search.curve.source import Curve, LogRatios, Sampled, Smooth
from collegium.search.curve.surface import Surface, fit_surface
from collegium.search.estimate.design import (
    Member,
    around,
    beyond,
    every_stage,
    first_limit,
    later_stages,
    narrower_design,
    tied_design,
    varying_sum,
)
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.uncertainty import CORRELATIONS
from collegium.search.optimize.vector import best_vector
from collegium.search.progress import Report, scaled
from collegium.search.sampling.estimation import Estimation, relaxed
from collegium.search.sampling.shards import PointProgress

#: Each extension goes this much further, with a relaxed error, as the tail grows heavier.
EXTENSION = 1.5
EXTENSIONS = 3
RELAXED = 2.0
#: Relaxation of the error at later stages' widths without a closed form, where ln r is small and a sample costs most.
WIDE_RELAXED = 3.0
#: Rounds of sampling width vectors: those around the tied optimum, then the best so far.
VECTOR_ROUNDS = 16


def sample_curve(problem: GroupingProblem, estimation: Estimation, report: Report) -> Curve:
    """Sample the problem's curve; every member of a listed space, or a design with a smooth curve through it."""
    if problem.spec.space.widths is not None:
        return _sample_listed(problem, estimation, report)
    points = _sample_tied(problem, estimation, report)
    curve = _smooth(problem, points)
    if problem.spec.space.mode == "vector" and len(problem.network.baseline) > 1 and isinstance(curve, Smooth):
        return _sample_vectors(problem, estimation, curve, points, report)
    return _known(problem, curve, points)


def _sample_tied(problem: GroupingProblem, estimation: Estimation, report: Report) -> list[Point]:
    """Members in the baseline's ratio and what later stages need; narrower ones while the optimum is at the end."""
    members, limit = problem.members, first_limit(problem)
    wanted = tied_design(problem, limit)
    wide = later_stages(problem, wanted)
    if problem.closed_form:
        wanted, wide = wanted + wide, []
    points = _sampled(problem, estimation, wanted, scaled(report, 0, 0.6), "sampling the kernel")
    softer = relaxed(estimation, WIDE_RELAXED)
    points += _sampled(problem, softer, wide, scaled(report, 0.6, 0.7), "sampling wider stages")
    softer = relaxed(estimation, RELAXED)
    for _ in range(EXTENSIONS):
        narrower = [widths for widths in members if varying_sum(problem, widths) > limit]
        if not narrower or not _at_narrow_end(problem, members, _smooth(problem, points)):
            break
        limit *= EXTENSION
        sampled = {point.widths for point in points}
        more = [widths for widths in narrower_design(narrower, limit, problem) if widths not in sampled]
        points += _sampled(problem, softer, more, scaled(report, 0.7, 1), "sampling narrower members")
    return sorted(points, key=lambda point: point.widths)


def _sample_vectors(
    problem: GroupingProblem, estimation: Estimation, tied: Smooth, points: list[Point], report: Report
) -> Curve:
    """Vectors around the tied optimum, and then the best vector of each fit, until that one has been sampled."""
    solved = problem.solve(problem.members, tied)
    wanted = around(problem, solved.widths[solved.optimum]) if solved.optimum is not None else []
    for _ in range(VECTOR_ROUNDS):
        sampled = {point.widths for point in points}
        new = [widths for widths in wanted if widths not in sampled]
        if not new:
            break
        points = points + _sampled(problem, estimation, new, scaled(report, 0.7, 1), "sampling width vectors")
        surface = _surface(problem, points).outreaching
        found = best_vector(problem, surface, problem.solve(problem.members, surface))
        if found is None:
            break
        wanted = [found.widths, *beyond(problem, found.widths, surface.narrowest)]
    return _known(problem, _surface(problem, points), points)


def sample_correlations(
    problem: GroupingProblem, estimation: Estimation, points: Sequence[Point], report: Report
) -> dict[float, LogRatios]:
    """ln r at a low, a middle and the highest correlation, at five of the members sampled and three times the error.

    Correlations at which the baseline's own variance does not converge are left out.
    """
    wanted = (CORRELATIONS[0], CORRELATIONS[2], CORRELATIONS[-1])
    members = set(problem.members)
    tied = [point.widths for point in points if point.widths in members and point.converged]
    widths = [tied[i] for i in np.unique(np.linspace(0, len(tied) - 1, 5).round().astype(int))] if tied else []
    widths = list(dict.fromkeys((*widths, problem.network.baseline)))
    widths += later_stages(problem, widths)
    softer = relaxed(estimation, 3.0)
    found: dict[float, LogRatios] = {}
    for index, correlation in enumerate(wanted):
        there = problem.at_correlation(correlation)
        part = scaled(report, index / len(wanted), (index + 1) / len(wanted))
        curve = _smooth(there, _sampled(there, softer, widths, part, f"inputs of correlation {correlation:g}"))
        if baseline_known(there, curve):
            found[correlation] = curve
    return found


def baseline_known(problem: GroupingProblem, log_ratios: LogRatios) -> bool:
    """Whether the baseline's ln r is known."""
    return bool(np.isfinite(log_ratios(np.array([problem.network.baseline]))).all())


def _sample_listed(problem: GroupingProblem, estimation: Estimation, report: Report) -> Curve:
    points = _sampled(problem, estimation, every_stage(problem, problem.members), report, "sampling the kernel")
    return _known(problem, Sampled.at(points, falls=problem.network.chain.homogeneous), points)


def _known(problem: GroupingProblem, log_ratios: LogRatios, points: Sequence[Point]) -> Curve:
    """The curve over the members at which it is known; none where the baseline's own variance is not."""
    members = problem.members
    if not members or not baseline_known(problem, log_ratios):
        return Curve(log_ratios, tuple(points), ())
    known = np.isfinite(log_ratios(np.array(members)))
    return Curve(log_ratios, tuple(points), tuple(members[index] for index in np.flatnonzero(known)))


def _at_narrow_end(problem: GroupingProblem, members: Sequence[Member], curve: Smooth | Sampled) -> bool:
    """Whether the optimum is among the narrowest tenth of the sampled range."""
    if isinstance(curve, Sampled) or not baseline_known(problem, curve):
        return False
    solved = problem.solve(members, curve)
    best = solved.optimum
    return best is not None and varying_sum(problem, solved.widths[best]) > 0.9 * curve.largest


def _smooth(problem: GroupingProblem, points: Sequence[Point]) -> Smooth | Sampled:
    """The curve through the points that have converged; where none has, nothing is known."""
    used = [point for point in points if point.converged]
    if not used:
        return Sampled.at(())
    network = problem.network
    t = varying_sums(network, np.array([point.widths for point in used]))
    offset = keeps_variance(network)
    if network.chain.homogeneous:
        seed = problem.spec.estimator.seed
        curve = fit_increasing(used, t, degree=free_layers(network), offset=offset, seed=seed)
    else:
        curve = fit_polynomial(used, t, offset=offset)
    return Smooth(network, curve, float(t.min()), float(t.max()))


def _surface(problem: GroupingProblem, points: Sequence[Point]) -> Surface:
    used = [point for point in points if point.converged]
    return fit_surface(problem.network, used, problem.spec.estimator.seed)


def _sampled(
    problem: GroupingProblem, estimation: Estimation, members: Sequence[Member], report: Report, message: str
) -> list[Point]:
    """Points at the members, sampled to the asked error or as far as that goes."""
    if not members:
        return []
    states = estimation.run([problem.point(widths) for widths in members], report, message)
    return [_point(problem, state, estimation) for state in states]


def _point(problem: GroupingProblem, state: PointProgress, estimation: Estimation) -> Point:
    widths, estimate = tuple(state.point.widths), state.estimate
    return Point(
        widths=widths,
        inverse_fan_in_sum=problem.network.inverse_fan_in_sum(widths),
        log_ratio=estimate.log_ratio,
        standard_error=estimate.standard_error,
        samples=estimate.samples,
        converged=estimation.converged(state),
    )
