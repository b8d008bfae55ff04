"""The closed form compared with a short Monte Carlo estimate, and a found ensemble's own variance with its prediction.

The ensemble is built as one grouped chain, so nothing of the prediction, the division of a member's variance by m
least of all, goes into the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from collegium.search.estimate.agreement import agreement, apart, overall, saturated
from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.chain import ensemble_chain
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.progress import Report, scaled
from collegium.search.result import MeasuredVariance, SolvedEnsemble, SpotCheck, SpotCheckPoint, Verification
from collegium.search.sampling.estimation import Estimation
from collegium.search.sampling.schedule import PILOT_SAMPLES, work_per_sample
from collegium.search.sampling.shards import PointProgress

#: Relative error of ln r that a spot check samples for, within so many samples.
CHECK_ERROR, CHECK_SAMPLES = 0.02, 65_536
#: Deviation of ln r that a spot check must be able to see to agree.
CHECK_RELEVANT = 0.1
#: Deviation of an ensemble's variance that its measurement must be able to see: it is costlier, and what it would
#: reveal, a wrong multiplicity or law, is larger.
MEASURE_RELEVANT = 0.25


def spot_check(
    problem: GroupingProblem, members: Sequence[tuple[int, ...]], estimation: Estimation, report: Report
) -> SpotCheck:
    """ln r at a few members by both ways; ``estimation`` determines where the samples are drawn."""
    members = list(dict.fromkeys(members))
    exact = problem.exact(np.array(members))
    short = replace(estimation, relative_error=CHECK_ERROR, samples=None, most=CHECK_SAMPLES)
    states = short.run([problem.point(widths) for widths in members], report, "checking the closed form")
    points = tuple(
        _compared(widths, float(truth), state) for widths, truth, state in zip(members, exact, states, strict=True)
    )
    distances = [abs(point.standard_errors_apart) for point in points if point.standard_errors_apart is not None]
    common = overall(point.agreement for point in points)
    return SpotCheck(points=points, largest=max(distances, default=None), agreement=common, agrees=common == "agree")


def _compared(widths: tuple[int, ...], exact: float, state: PointProgress) -> SpotCheckPoint:
    estimate = state.estimate
    known = math.isfinite(estimate.log_ratio) and math.isfinite(estimate.standard_error)
    sampled, error = estimate.log_ratio, estimate.standard_error
    return SpotCheckPoint(
        widths=widths,
        samples=estimate.samples,
        exact=exact,
        sampled=sampled if math.isfinite(sampled) else None,
        standard_error=error if math.isfinite(error) else None,
        standard_errors_apart=apart(exact, sampled, error) if known else None,
        agreement=agreement(exact, sampled, error, CHECK_RELEVANT, saturated=saturated(estimate)),
    )


#: Relative error of ln r that an ensemble is measured for, within so much work and so many samples.
MEASURE_ERROR, WORK = 0.025, 4e10
FEWEST_SAMPLES, MOST_SAMPLES = 2_048, 131_072


def verify(
    problem: GroupingProblem,
    primal: SolvedEnsemble | None,
    dual: SolvedEnsemble | None,
    estimation: Estimation,
    report: Report,
) -> Verification | None:
    """Measure both ensembles; None where neither exists or can be built as one chain.

    An ensemble of which no sample was other than zero is measured all the same, and the samples cannot tell.
    """
    measured: list[MeasuredVariance | None] = []
    for index, answer in enumerate((primal, dual)):
        part = scaled(report, index / 2, (index + 1) / 2)
        measured.append(None if answer is None else _measure(problem, answer, estimation, part))
    found = [one for one in measured if one is not None]
    if not found:
        return None
    common = overall(one.agreement for one in found)
    return Verification(primal=measured[0], dual=measured[1], agreement=common, agrees=common == "agree")


def _measure(
    problem: GroupingProblem, answer: SolvedEnsemble, estimation: Estimation, report: Report
) -> MeasuredVariance | None:
    chain = ensemble_chain(problem.network.chain, answer.widths, answer.multiplicity)
    if chain is None:
        return None
    point = KernelPoint.of(chain, (), problem.spec.estimator.entry, problem.inputs)
    most = int(min(MOST_SAMPLES, max(FEWEST_SAMPLES, WORK / work_per_sample(point))))
    message = f"measuring {answer.multiplicity} members as built"
    fixed = most if most < PILOT_SAMPLES else None
    asked = replace(estimation, relative_error=MEASURE_ERROR, samples=fixed, most=most)
    (state,) = asked.run([point], report, message)
    estimate = state.estimate
    known = math.isfinite(estimate.log_ratio) and math.isfinite(estimate.standard_error)
    variance = math.expm1(estimate.log_ratio) if known else math.nan
    error = estimate.ratio * estimate.standard_error if known else math.inf
    return MeasuredVariance(
        widths=answer.widths,
        multiplicity=answer.multiplicity,
        samples=estimate.samples,
        predicted=answer.variance,
        measured=variance if known else None,
        standard_error=error if known else None,
        standard_errors_apart=apart(answer.variance, variance, error) if known else None,
        agreement=agreement(answer.variance, variance, error, MEASURE_RELEVANT, saturated=saturated(estimate)),
    )
