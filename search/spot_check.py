"""The closed form beside a short Monte Carlo estimate, and a found ensemble's own variance beside its prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from collegium.search.case import Case
from collegium.search.estimation import Estimation, Report
from collegium.search.result import Check, CheckPoint

#: Samples per member; ln r is known to 1–2 % from them.
SAMPLES = 16_384
#: Standard errors apart from which the two are said to disagree.
DISAGREE = 4.0


def spot_check(case: Case, members: Sequence[tuple[int, ...]], estimation: Estimation, report: Report) -> Check:
    """ln r at a few members by both ways; ``estimation`` says where the samples are drawn."""
    members = list(dict.fromkeys(members))
    exact = case.exact(np.array(members))
    short = replace(estimation, samples=SAMPLES)
    states = short.run([case.point(widths) for widths in members], report, "checking the closed form")
    points = []
    for widths, truth, state in zip(members, exact, states, strict=True):
        estimate = state.estimate
        if not math.isfinite(estimate.standard_error):
            continue
        points.append(
            CheckPoint(
                widths=widths,
                samples=estimate.samples,
                exact=float(truth),
                sampled=estimate.log_ratio,
                standard_error=estimate.standard_error,
                standard_errors_apart=apart(float(truth), estimate.log_ratio, estimate.standard_error),
            )
        )
    largest = max((abs(point.standard_errors_apart) for point in points), default=0.0)
    return Check(points=tuple(points), largest=largest, agrees=largest <= DISAGREE)


def apart(expected: float, found: float, standard_error: float) -> float:
    """Signed distance in standard errors; zero where neither differs nor errs."""
    if found == expected:
        return 0.0
    return (found - expected) / max(standard_error, 1e-300)
