"""Whether a measurement agrees with what was expected, disagrees, or cannot tell.

A check is worth something only where a relevant deviation would have been seen, so the size of the error decides
first. Agreement needs an error small enough that a deviation of ``relevant`` would be four standard errors; a
disagreement needs four standard errors of an error that means something. The standard error of a ratio r with fewer
than r² samples does not: E[K²] of a log-normal K lies beyond them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from collegium.search.kernel.moments import Estimate
from collegium.search.result import Agreement

#: Standard errors apart from which two values disagree.
DISAGREE = 4.0
#: Largest standard error, relative to the larger of both values, from which a disagreement follows.
MEANINGFUL = 0.25


def agreement(expected: float, found: float, standard_error: float, relevant: float, *, saturated: bool) -> Agreement:
    """Compare ``found`` ± ``standard_error`` with ``expected``; ``relevant`` is a deviation relative to ``expected``.

    ``saturated``: the samples are too few for their ratio, see ``Estimate.saturated``.

    >>> agreement(1.0, 1.01, 0.01, 0.1, saturated=False), agreement(1.0, 1.2, 0.01, 0.1, saturated=False)
    ('agree', 'disagree')
    >>> agreement(18.5, 8.8, 7e26, 0.1, saturated=True)
    'cannot_tell'
    """
    if not math.isfinite(found) or not math.isfinite(standard_error) or saturated:
        return "cannot_tell"
    if abs(apart(expected, found, standard_error)) > DISAGREE:
        return "disagree" if standard_error <= MEANINGFUL * max(abs(expected), abs(found)) else "cannot_tell"
    return "agree" if DISAGREE * standard_error <= relevant * abs(expected) else "cannot_tell"


def saturated(estimate: Estimate) -> bool:
    """Whether an estimate's samples are too few for their own ratio."""
    return math.isfinite(estimate.log_ratio) and estimate.saturated


def overall(agreements: Iterable[Agreement | None]) -> Agreement:
    """Of several: one disagreement decides, then one that cannot tell; without any, nothing can be told."""
    found = set(agreements)
    if "disagree" in found:
        return "disagree"
    return "agree" if found == {"agree"} else "cannot_tell"


def apart(expected: float, found: float, standard_error: float) -> float:
    """Signed distance in standard errors; zero where neither differs nor errs."""
    if found == expected:
        return 0.0
    return (found - expected) / max(standard_error, 1e-300)
