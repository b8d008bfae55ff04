"""Which members are sampled: few, spread so that every width that an answer may name lies between two of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from collegium.search.curve.smooth import varying_sums
from collegium.search.optimize.members import vector_values
from collegium.search.optimize.problem import GroupingProblem

#: Members sampled at first.
MEMBERS = 9
#: Varying part of s(n) at the narrowest member sampled at first: ln r is 0.7 to 1.3 there.
NARROWEST = 0.25
#: Members sampled within the window of the α fit.
IN_WINDOW = 4

Member = tuple[int, ...]


def first_limit(problem: GroupingProblem) -> float:
    """The largest varying part of s(n) that is sampled at first."""
    return max(NARROWEST, 2 * varying_sum(problem, problem.network.baseline))


def tied_design(problem: GroupingProblem, limit: float) -> list[Member]:
    """The baseline, and members spread geometrically over those whose varying s(n) is at most ``limit``."""
    members = problem.members
    reachable = [widths for widths in members if varying_sum(problem, widths) <= limit] or list(members[-1:])
    chosen = geometric(reachable, MEMBERS)
    window = problem.spec.estimator.window
    if window is not None:
        highest = window.max_width or max((widths[0] for widths in reachable), default=0)
        inside = [widths for widths in reachable if window.min_width <= widths[0] <= highest]
        chosen += geometric(inside, IN_WINDOW)
    return list(dict.fromkeys((*chosen, problem.network.baseline)))


def later_stages(problem: GroupingProblem, members: Sequence[Member]) -> list[Member]:
    """The baseline and the widest member as later stages have them, so that no stage lies beyond what is sampled."""
    scales = problem.scales
    widest = max(members, key=lambda widths: widths[0], default=problem.network.baseline)
    wide = [tuple(scale * width for width in one) for one in (problem.network.baseline, widest) for scale in scales]
    return [widths for widths in dict.fromkeys(wide) if widths not in set(members)]


def every_stage(problem: GroupingProblem, members: Sequence[Member]) -> list[Member]:
    """All members, and the baseline, as every stage has them."""
    scales = problem.scales
    named = (*members, problem.network.baseline)
    return list(dict.fromkeys(tuple(scale * width for width in one) for scale in scales for one in named))


def narrower_design(members: Sequence[Member], limit: float, problem: GroupingProblem) -> list[Member]:
    """Two of the members within ``limit``, or the widest."""
    return geometric([widths for widths in members if varying_sum(problem, widths) <= limit] or list(members[-1:]), 2)


def geometric(members: Sequence[Member], count: int) -> list[Member]:
    """About ``count`` of the members, spread geometrically by their first width, both ends among them."""
    if not members:
        return []
    first = np.array([widths[0] for widths in members], float)
    wanted = np.geomspace(first.min(), first.max(), count)
    chosen = np.unique(np.abs(np.log(first)[None] - np.log(wanted)[:, None]).argmin(axis=1))
    return [members[index] for index in chosen]


def around(problem: GroupingProblem, widths: Member) -> list[Member]:
    """Each width alone at a third and at three times its value, within the space."""
    vectors = []
    for index, allowed in enumerate(vector_values(problem.network, problem.spec.space)):
        for factor in (1 / 3, 3):
            value = int(allowed[np.abs(allowed - widths[index] * factor).argmin()])
            vectors.append((*widths[:index], value, *widths[index + 1 :]))
    return list(dict.fromkeys(vectors))


def beyond(problem: GroupingProblem, widths: Member, narrowest: np.ndarray) -> list[Member]:
    """Where a width is at the narrowest one sampled: the same vector with half of it."""
    vectors = []
    for index, allowed in enumerate(vector_values(problem.network, problem.spec.space)):
        half = int(allowed[np.abs(allowed - widths[index] / 2).argmin()])
        if widths[index] <= 1.1 * narrowest[index] and half < narrowest[index]:
            vectors.append((*widths[:index], half, *widths[index + 1 :]))
    return vectors


def varying_sum(problem: GroupingProblem, widths: Member) -> float:
    """The part of s(n) that varies with the widths."""
    return float(varying_sums(problem.network, np.array([widths]))[0])
