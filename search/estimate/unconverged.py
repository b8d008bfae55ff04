"""The outcome of a search whose samples did not suffice: what is missing, why, and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence

from collegium.search.curve.fit import Point
from collegium.search.networks.chain import Chain
from collegium.search.outcomes.evidence import Evidence
from collegium.search.part import named_widths
from collegium.search.result import Outcome
from collegium.search.sampling.estimation import LARGEST_ERROR

#: Widths that are named in a sentence.
NAMED = 5


def unconverged(evidence: Evidence) -> Outcome | None:
    """Members at which ln r was sampled and is not known; without the baseline there is no answer at all."""
    missed = evidence.missed
    if not missed:
        return None
    lost = [] if evidence.baseline_known else ["Without the baseline's own variance there is no answer."]
    dead = [point for point in missed if not math.isfinite(point.log_ratio)]
    parts = [_dead(evidence, dead)] if dead else []
    if len(dead) < len(missed):
        parts.append(_noisy(evidence, [point for point in missed if point not in dead]))
    return Outcome(
        kind="not_converged",
        message=" ".join([*parts, *(lost or [_covered(evidence)])]),
        remedy=_remedy(evidence, missed, dead),
    )


def _noisy(evidence: Evidence, points: Sequence[Point]) -> str:
    asked = "an error below half of it" if evidence.problem.spec.estimator.samples else "the asked error"
    return (
        f"The estimate of ln r did not reach {asked} at {len(points)} of {len(evidence.points)} members sampled "
        f"({_widths(points)}), whose kernels have the heaviest tails."
    )


def _dead(evidence: Evidence, points: Sequence[Point]) -> str:
    pair = evidence.problem.inputs.pair
    seen = f"All {max(point.samples for point in points):,} samples of the kernel were zero at width {_widths(points)}"
    if pair is not None and pair.cosine < 0:
        return f"{seen}: inputs of cosine {pair.cosine:g} open few units or none in common."
    alive = _alive(evidence.problem.network.chain, points[0].widths)
    return f"{seen}: a whole layer is dead but with probability {alive:.2g} at width {named_widths(points[0].widths)}."


def _alive(chain: Chain, widths: tuple[int, ...]) -> float:
    """The probability that some unit of every rectified hidden layer is open, where layers have one position."""
    layers = chain.at(widths).layers[:-1]
    outs = [layer.out for layer in layers if layer.activation == "relu" and isinstance(layer.out, int)]
    return math.prod(1 - 0.5**out for out in outs)


def _covered(evidence: Evidence) -> str:
    first = sorted(widths[0] for widths in evidence.solved.widths)
    if not first:
        return "No member of the space is known."
    return f"The answer is the best of the members that are known, of widths {first[0]} to {first[-1]}."


def _remedy(evidence: Evidence, missed: Sequence[Point], dead: Sequence[Point]) -> str:
    problem = evidence.problem
    pair = problem.inputs.pair
    if problem.closed_form:
        return "Use estimator.method 'auto': this kernel has a closed form, which needs no samples."
    if pair is not None and pair.cosine < 0 and dead:
        return "Raise inputs.pair.cosine, or leave inputs.pair out."
    if not evidence.baseline_known:
        return f"{_softer(evidence, missed)} wider hidden layers for the baseline, or fewer of them."
    return f"{_softer(evidence, missed)} a larger space.min_width, to leave the narrowest members out."


def _softer(evidence: Evidence, missed: Sequence[Point]) -> str:
    """An error that would have been reached, or more samples, and the beginning of an alternative."""
    spec = evidence.problem.spec.estimator
    if spec.samples is not None:
        return "Raise estimator.samples, or choose"
    reached = max((point.standard_error / point.log_ratio if point.log_ratio > 0 else math.inf) for point in missed)
    within = math.isfinite(reached) and reached <= LARGEST_ERROR
    return f"Raise estimator.relative_error to {math.ceil(100 * reached) / 100:g}, or choose" if within else "Choose"


def _widths(points: Sequence[Point]) -> str:
    named = ", ".join(named_widths(point.widths) for point in points[:NAMED])
    return named if len(points) <= NAMED else f"{named}, …"
