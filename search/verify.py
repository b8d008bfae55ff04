"""Building the ensemble that was found, and measuring the variance of its own kernel against the prediction.

The ensemble is one grouped chain (``collegium.search.ensemble``), so nothing of the prediction, the division of a member's
variance by m least of all, goes into the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from collegium.search.case import Case
from collegium.search.ensemble import ensemble_chain
from collegium.search.estimation import Estimation
from collegium.search.kernel_point import KernelPoint
from collegium.search.result import Answer, Measured, Verification
from collegium.search.shards import work_per_sample
from collegium.search.spot_check import DISAGREE, apart

#: Multiply–accumulate operations spent on one ensemble, and the samples they may buy.
WORK = 4e10
FEWEST_SAMPLES, MOST_SAMPLES = 1_024, 8_192


def verify(
    case: Case,
    primal: Answer | None,
    dual: Answer | None,
    estimation: Estimation,
    report: Callable[[float, str], None],
) -> Verification | None:
    """Measure both ensembles; None where neither exists or can be built as one chain."""
    measured: list[Measured | None] = []
    for index, answer in enumerate((primal, dual)):

        def part(fraction: float, message: str, index: int = index) -> None:
            report((index + fraction) / 2, message)

        measured.append(None if answer is None else _measure(case, answer, estimation, part))
    found = [one for one in measured if one is not None]
    if not found:
        return None
    agrees = all(abs(one.standard_errors_apart) <= DISAGREE for one in found)
    return Verification(primal=measured[0], dual=measured[1], agrees=agrees)


def _measure(
    case: Case, answer: Answer, estimation: Estimation, report: Callable[[float, str], None]
) -> Measured | None:
    chain = ensemble_chain(case.network.chain, answer.widths, answer.multiplicity)
    if chain is None:
        return None
    point = KernelPoint.of(chain, (), case.spec.estimator.entry, case.inputs)
    samples = int(min(MOST_SAMPLES, max(FEWEST_SAMPLES, WORK / work_per_sample(point))))
    message = f"measuring {answer.multiplicity} members as built"
    (state,) = replace(estimation, samples=samples).run([point], report, message)
    estimate = state.estimate
    if not math.isfinite(estimate.standard_error):
        return None
    variance = math.expm1(estimate.log_ratio)
    error = estimate.ratio * estimate.standard_error
    return Measured(
        widths=answer.widths,
        multiplicity=answer.multiplicity,
        samples=estimate.samples,
        predicted=answer.variance,
        measured=variance,
        standard_error=error,
        standard_errors_apart=apart(answer.variance, variance, error),
    )
