"""The curve by sampling: which members are sampled, and the smooth curve through them.

Members are spread geometrically from the baseline down to where ln r is about one; narrower ones have so heavy a tail
that they would cost most of the samples. If the optimum is at that end, narrower ones are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.smooth import fit_polynomial, varying_sums
from collegium.search.curve.source import Curve, LogRatios, Sampled, Smooth
from collegium.search.curve.surface import fit_surface
from collegium.search.errors import InvalidSpec
from collegium.search.optimize.members import vector_values
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.uncertainty import CORRELATIONS
from collegium.search.optimize.vector import best_vector
from collegium.search.progress import Report, scaled
from collegium.search.sampling.estimation import Estimation, relaxed
from collegium.search.sampling.shards import PointProgress

#: Members sampled at first.
MEMBERS = 9
#: Varying part of s(n) at the narrowest member sampled at first: ln r is 0.7 to 1.3 there.
NARROWEST = 0.25
#: Each extension goes this much further, with a relaxed error, as the tail grows heavier.
EXTENSION = 1.5
EXTENSIONS = 3
#: Rounds of sampling width vectors: those around the tied optimum, then the best so far.
VECTOR_ROUNDS = 16
RELAXED = 2.0


def sample_curve(problem: GroupingProblem, estimation: Estimation, report: Report) -> Curve:
    """Sample the problem's curve; every member of a listed space, or a design with a smooth curve through it."""
    if problem.spec.space.widths is not None:
        return _sample_listed(problem, estimation, report)
    members = problem.members
    limit = max(NARROWEST, 2 * _t(problem, problem.network.baseline))
    wanted = _design(problem, members, limit)
    states = estimation.run([problem.point(widths) for widths in wanted], scaled(report, 0, 0.7), "sampling the kernel")
    points = [_point(problem, state, estimation) for state in states]
    for _ in range(EXTENSIONS):
        curve = _smooth(problem, points)
        narrower = [widths for widths in members if _t(problem, widths) > limit]
        if not narrower or not _at_narrow_end(problem, members, curve):
            break
        limit *= EXTENSION
        more = [widths for widths in _spread(narrower, limit, problem) if widths not in {p.widths for p in points}]
        softer = relaxed(estimation, RELAXED)
        states = softer.run(
            [problem.point(widths) for widths in more], scaled(report, 0.7, 1), "sampling narrower members"
        )
        points += [_point(problem, state, softer) for state in states]
    points.sort(key=lambda point: point.widths)
    curve = _smooth(problem, points)
    if problem.spec.space.mode == "vector" and len(problem.network.baseline) > 1:
        return _sample_vectors(problem, estimation, curve, points, report)
    known = tuple(widths for widths in members if np.isfinite(curve(np.array([widths])))[0])
    return Curve(curve, tuple(points), known)


def _sample_vectors(
    problem: GroupingProblem, estimation: Estimation, tied: Smooth, points: list[Point], report: Report
) -> Curve:
    """Vectors around the tied optimum, and then the best vector of each fit, until that one has been sampled."""
    solved = problem.solve(problem.members, tied)
    wanted = _around(problem, solved.widths[solved.optimum]) if solved.optimum is not None else []
    for _ in range(VECTOR_ROUNDS):
        sampled = {point.widths for point in points}
        new = [problem.point(widths) for widths in wanted if widths not in sampled]
        if not new:
            break
        states = estimation.run(new, scaled(report, 0.7, 1), "sampling width vectors")
        points = points + [_point(problem, state, estimation) for state in states]
        surface = fit_surface(problem.network, points, problem.spec.estimator.seed)
        found = best_vector(problem, surface, problem.solve(problem.members, surface))
        if found is None:
            break
        wanted = [found.widths, *_beyond(problem, found.widths, surface.narrowest)]
    surface = fit_surface(problem.network, points, problem.spec.estimator.seed)
    known = tuple(widths for widths in problem.members if np.isfinite(surface(np.array([widths])))[0])
    return Curve(surface, tuple(points), known)


def _beyond(problem: GroupingProblem, widths: tuple[int, ...], narrowest: np.ndarray) -> list[tuple[int, ...]]:
    """Where a width is at the narrowest one sampled: the same vector with half of it."""
    vectors = []
    for index, allowed in enumerate(vector_values(problem.network, problem.spec.space)):
        half = int(allowed[np.abs(allowed - widths[index] / 2).argmin()])
        if widths[index] <= 1.1 * narrowest[index] and half < narrowest[index]:
            vectors.append((*widths[:index], half, *widths[index + 1 :]))
    return vectors


def _around(problem: GroupingProblem, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Each width alone at a third and at three times its value, within the space."""
    values = vector_values(problem.network, problem.spec.space)
    vectors = []
    for index, allowed in enumerate(values):
        for factor in (1 / 3, 3):
            value = int(allowed[np.abs(allowed - widths[index] * factor).argmin()])
            vectors.append((*widths[:index], value, *widths[index + 1 :]))
    return list(dict.fromkeys(vectors))


def sample_correlations(
    problem: GroupingProblem, estimation: Estimation, points: Sequence[Point], report: Report
) -> dict[float, LogRatios]:
    """ln r at a low, a middle and the highest correlation, at five of the members sampled and three times the error."""
    wanted = (CORRELATIONS[0], CORRELATIONS[2], CORRELATIONS[-1])
    members = set(problem.members)
    tied = [point for point in points if point.widths in members]
    converged = [point.widths for point in tied if point.converged] or [point.widths for point in tied]
    widths = [converged[i] for i in np.unique(np.linspace(0, len(converged) - 1, 5).round().astype(int))]
    softer = relaxed(estimation, 3.0)
    found: dict[float, LogRatios] = {}
    for index, correlation in enumerate(wanted):
        there = problem.at_correlation(correlation)
        part = scaled(report, index / len(wanted), (index + 1) / len(wanted))
        states = softer.run([there.point(member) for member in widths], part, f"inputs of correlation {correlation:g}")
        found[correlation] = _smooth(there, [_point(there, state, softer) for state in states])
    return found


def _sample_listed(problem: GroupingProblem, estimation: Estimation, report: Report) -> Curve:
    members = problem.members
    wanted = list(dict.fromkeys((*members, problem.network.baseline)))
    states = estimation.run([problem.point(widths) for widths in wanted], report, "sampling the kernel")
    points = tuple(_point(problem, state, estimation) for state in states)
    log_ratios = Sampled(
        {point.widths: point.log_ratio for point in points},
        {point.widths: point.standard_error for point in points},
    )
    return Curve(log_ratios, points, members)


def _design(problem: GroupingProblem, members: Sequence[tuple[int, ...]], limit: float) -> list[tuple[int, ...]]:
    """The baseline and members spread geometrically over those whose varying s(n) is at most ``limit``."""
    reachable = [widths for widths in members if _t(problem, widths) <= limit] or list(members[-1:])
    chosen = _geometric(reachable, MEMBERS) if reachable else []
    return list(dict.fromkeys((*chosen, problem.network.baseline)))


def _spread(members: Sequence[tuple[int, ...]], limit: float, problem: GroupingProblem) -> list[tuple[int, ...]]:
    within = [widths for widths in members if _t(problem, widths) <= limit] or list(members[-1:])
    return _geometric(within, 2)


def _geometric(members: Sequence[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    first = np.array([widths[0] for widths in members], float)
    wanted = np.geomspace(first.min(), first.max(), count)
    chosen = np.unique(np.abs(np.log(first)[None] - np.log(wanted)[:, None]).argmin(axis=1))
    return [members[index] for index in chosen]


def _at_narrow_end(problem: GroupingProblem, members: Sequence[tuple[int, ...]], curve: Smooth) -> bool:
    """Whether the optimum is among the narrowest tenth of the sampled range."""
    solved = problem.solve(members, curve)
    best = solved.optimum
    return best is not None and _t(problem, solved.widths[best]) > 0.9 * curve.largest


def _smooth(problem: GroupingProblem, points: Sequence[Point]) -> Smooth:
    t = varying_sums(problem.network, np.array([point.widths for point in points]))
    hidden = problem.network.chain.layers[:-1]
    offset = any(isinstance(layer.out, int) for layer in hidden)
    return Smooth(problem.network, fit_polynomial(points, t, offset=offset), float(t.max()))


def _point(problem: GroupingProblem, state: PointProgress, estimation: Estimation) -> Point:
    estimate = state.estimate
    if not math.isfinite(estimate.log_ratio):
        raise InvalidSpec(("inputs", "pair"), "the kernel between these two inputs is zero: choose a larger cosine")
    widths = tuple(state.point.widths)
    return Point(
        widths=widths,
        inverse_fan_in_sum=problem.network.inverse_fan_in_sum(widths),
        log_ratio=estimate.log_ratio,
        standard_error=estimate.standard_error,
        samples=estimate.samples,
        converged=estimation.converged(state),
    )


def _t(problem: GroupingProblem, widths: tuple[int, ...]) -> float:
    return float(varying_sums(problem.network, np.array([widths]))[0])
