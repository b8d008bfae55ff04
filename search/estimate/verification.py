"""The closed form compared with a short Monte Carlo estimate, and a found ensemble's own variance with its prediction.

The ensemble is built as one grouped chain, so nothing of the prediction, the division of a member's variance by m
least of all, goes into the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.chain import ensemble_chain
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.progress import Report, scaled
from collegium.search.result import MeasuredVariance, SolvedEnsemble, SpotCheck, SpotCheckPoint, Verification
from collegium.search.sampling.estimation import Estimation
from collegium.search.sampling.schedule import work_per_sample

#: Samples per member; ln r is known to 1–2 % from them.
SAMPLES = 16_384
#: Standard errors apart from which the two disagree.
DISAGREE = 4.0


def spot_check(
    problem: GroupingProblem, members: Sequence[tuple[int, ...]], estimation: Estimation, report: Report
) -> SpotCheck:
    """ln r at a few members by both ways; ``estimation`` determines where the samples are drawn."""
    members = list(dict.fromkeys(members))
    exact = problem.exact(np.array(members))
    short = replace(estimation, samples=SAMPLES)
    states = short.run([problem.point(widths) for widths in members], report, "checking the closed form")
    points = []
    for widths, truth, state in zip(members, exact, states, strict=True):
        estimate = state.estimate
        if not math.isfinite(estimate.standard_error):
            continue
        points.append(
            SpotCheckPoint(
                widths=widths,
                samples=estimate.samples,
                exact=float(truth),
                sampled=estimate.log_ratio,
                standard_error=estimate.standard_error,
                standard_errors_apart=apart(float(truth), estimate.log_ratio, estimate.standard_error),
            )
        )
    largest = max((abs(point.standard_errors_apart) for point in points), default=0.0)
    return SpotCheck(points=tuple(points), largest=largest, agrees=largest <= DISAGREE)


def apart(expected: float, found: float, standard_error: float) -> float:
    """Signed distance in standard errors; zero where neither differs nor errs."""
    if found == expected:
        return 0.0
    return (found - expected) / max(standard_error, 1e-300)


#: Multiply–accumulate operations spent on one ensemble, and the samples they may buy.
WORK = 4e10
FEWEST_SAMPLES, MOST_SAMPLES = 1_024, 8_192


def verify(
    problem: GroupingProblem,
    primal: SolvedEnsemble | None,
    dual: SolvedEnsemble | None,
    estimation: Estimation,
    report: Report,
) -> Verification | None:
    """Measure both ensembles; None where neither exists or can be built as one chain."""
    measured: list[MeasuredVariance | None] = []
    for index, answer in enumerate((primal, dual)):
        part = scaled(report, index / 2, (index + 1) / 2)
        measured.append(None if answer is None else _measure(problem, answer, estimation, part))
    found = [one for one in measured if one is not None]
    if not found:
        return None
    agrees = all(abs(one.standard_errors_apart) <= DISAGREE for one in found)
    return Verification(primal=measured[0], dual=measured[1], agrees=agrees)


def _measure(
    problem: GroupingProblem, answer: SolvedEnsemble, estimation: Estimation, report: Report
) -> MeasuredVariance | None:
    chain = ensemble_chain(problem.network.chain, answer.widths, answer.multiplicity)
    if chain is None:
        return None
    point = KernelPoint.of(chain, (), problem.spec.estimator.entry, problem.inputs)
    samples = int(min(MOST_SAMPLES, max(FEWEST_SAMPLES, WORK / work_per_sample(point))))
    message = f"measuring {answer.multiplicity} members as built"
    (state,) = replace(estimation, samples=samples).run([point], report, message)
    estimate = state.estimate
    if not math.isfinite(estimate.standard_error):
        return None
    variance = math.expm1(estimate.log_ratio)
    error = estimate.ratio * estimate.standard_error
    return MeasuredVariance(
        widths=answer.widths,
        multiplicity=answer.multiplicity,
        samples=estimate.samples,
        predicted=answer.variance,
        measured=variance,
        standard_error=error,
        standard_errors_apart=apart(answer.variance, variance, error),
    )
