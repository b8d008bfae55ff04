"""The α of an answer: fitted to exact or sampled points, or given and held against the exact ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from collegium.search.curve.fit import Line, Point, fit_line
from collegium.search.curve.smooth import varying_sums
from collegium.search.errors import InvalidSpec
from collegium.search.optimize.members import scaled_members
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.variances import LARGEST_LOG_RATIO
from collegium.search.result import Alpha, AlphaPoint, FitWindow
from collegium.search.spec import SpaceSpec

#: Exact points of a fit, spread geometrically from width 1 to the baseline.
EXACT_POINTS = 40


def exact_points(problem: GroupingProblem) -> tuple[Point, ...]:
    """The closed form at widths in the baseline's ratio, whatever the space of the search."""
    members = scaled_members(problem.network, SpaceSpec())
    first = np.array([widths[0] for widths in members], float)
    wanted = np.geomspace(first.min(), first.max(), EXACT_POINTS)
    chosen = [members[index] for index in np.unique(np.abs(first[None] - wanted[:, None]).argmin(axis=1))]
    log_ratio = problem.exact(np.array(chosen))
    points = [
        Point(widths, problem.network.inverse_fan_in_sum(widths), float(value))
        for widths, value in zip(chosen, log_ratio, strict=True)
    ]
    return tuple([point for point in points if point.log_ratio <= LARGEST_LOG_RATIO] or points)


def fit_alpha(problem: GroupingProblem, points: Sequence[Point]) -> Alpha:
    """The weighted fit through the origin to the ``points`` that have converged, or the given α with its residuals.

    There is no α, and ``value`` is null, where none of the sampled points in the fit's window has converged. Raises
    ``InvalidSpec`` where the window holds no exact point.
    """
    given = problem.spec.estimator.alpha
    if given is not None:
        return _given(given, points)
    points = _on_the_line(problem, points)
    window = problem.spec.estimator.window
    bounds = None if window is None else (window.min_width, window.max_width)
    exact = all(point.samples == 0 for point in points)
    try:
        line = fit_line([point for point in points if point.converged], bounds)
    except ValueError as error:
        if exact:
            raise InvalidSpec(("estimator", "window"), str(error)) from error
        return _without_line(points)
    residuals = [point.log_ratio - line.alpha * point.inverse_fan_in_sum for point in points]
    uses = iter(line.used)
    return Alpha(
        value=line.alpha,
        standard_error=line.standard_error,
        method="exact" if exact else "monte_carlo",
        window=FitWindow(min_width=line.window[0], max_width=line.window[1]),
        r_squared=line.r_squared,
        points=_described(points, residuals, [point.converged and next(uses) for point in points]),
        slope=_slope(problem, [point for point in points if point.converged], line),
        largest_relative_residual=line.largest_relative_residual([point for point in points if point.converged]),
    )


def _on_the_line(problem: GroupingProblem, points: Sequence[Point]) -> list[Point]:
    """Points at members of the space and the baseline; vectors and what later stages need are on other lines."""
    wanted = {*problem.members, problem.network.baseline}
    return [point for point in points if point.widths in wanted or not point.samples]


def _without_line(points: Sequence[Point]) -> Alpha:
    return Alpha(
        value=None,
        standard_error=None,
        method="monte_carlo",
        window=None,
        r_squared=None,
        points=_described(points, [math.nan] * len(points), [False] * len(points)),
    )


def _given(alpha: float, points: Sequence[Point]) -> Alpha:
    residuals = [point.log_ratio - alpha * point.inverse_fan_in_sum for point in points]
    misses = [abs(residual) / point.log_ratio for residual, point in zip(residuals, points, strict=True)]
    return Alpha(
        value=alpha,
        standard_error=0.0,
        method="given",
        window=None,
        r_squared=None,
        points=_described(points, residuals, [False] * len(points)),
        largest_relative_residual=max(misses, default=None),
    )


def _slope(problem: GroupingProblem, points: Sequence[Point], line: Line) -> float:
    """The same points against the part of s(n) that varies."""
    varying = varying_sums(problem.network, np.array([point.widths for point in points]))
    moved = [replace(point, inverse_fan_in_sum=float(t)) for point, t in zip(points, varying, strict=True)]
    return fit_line([point for point, used in zip(moved, line.used, strict=True) if used], (1, None)).alpha


def _described(points: Sequence[Point], residuals: Sequence[float], used: Sequence[bool]) -> tuple[AlphaPoint, ...]:
    return tuple(
        AlphaPoint(
            widths=point.widths,
            inverse_fan_in_sum=point.inverse_fan_in_sum,
            samples=point.samples,
            log_moment_ratio=_finite(point.log_ratio),
            standard_error=_finite(point.standard_error),
            residual=_finite(residual),
            used=use,
            converged=point.converged,
        )
        for point, residual, use in zip(points, residuals, used, strict=True)
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


#: That of a network of which nothing was studied.
NO_ALPHA = Alpha(method="exact")
