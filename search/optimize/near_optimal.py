"""The flat bottom of the objective: members within a tolerance of n*, and among them a hardware-friendly one.

The objective hardly changes near its optimum, but the time per step does: channels that fill whole vector lanes run
at twice the speed of their neighbours, at a variance within a few percent.
"""

from __future__ import annotations

import math

import numpy as np

from collegium.search.optimize.built import EQUAL, ensemble, is_baseline, within_dual
from collegium.search.optimize.solve import Solved
from collegium.search.result import NearOptimal, Recommendation, SolvedEnsemble

#: Largest grain that is worth seeking: a power of two that divides every width.
COARSEST = 32
#: Smallest grain of which a reason says that it fills vector lanes.
LANES = 8
#: Most members listed in the answer.
MOST_LISTED = 512
#: Relative difference from which two variances are called different in a reason.
DIFFERENT = 5e-4


def grain(widths: tuple[int, ...]) -> int:
    """Largest power of two, at most 32, that divides every width of the member."""
    return min(min(width & -width, COARSEST) for width in widths)


def near_optimal(
    solved: Solved,
    tolerance: float,
    primal: SolvedEnsemble | None,
    dual: SolvedEnsemble | None,
    found: SolvedEnsemble | None = None,
) -> NearOptimal | None:
    """The band within ``tolerance`` of the optimum and the recommended member in it; None without an optimum.

    ``primal`` and ``dual`` are the answers. The primal's member is in the band (the dual's, where no member fits the
    budget). Recommended is the largest grain, then the lowest objective, among ensembles that are as built within the
    tolerance of the answer and better than the baseline.

    ``found`` is the primal whose stages have each their own m and n, where ``primal`` is that of one m × n for all: the
    recommendation, which is of one m × n, says how it compares.
    """
    if solved.optimum is None:
        return None
    band = _Band(solved, tolerance, primal if solved.primal_optimum is not None else dual, found)
    inside = band.members()
    if not inside:
        return None
    first = [solved.widths[index][0] for index in inside]
    return NearOptimal(
        tolerance=tolerance,
        min_width=min(first),
        max_width=max(first),
        members=tuple(sorted(solved.widths[index] for index in inside[:MOST_LISTED])),
        recommended=band.recommendation(inside),
    )


class _Band:
    """Members near the optimum; ``built`` is the objective of each one's integer ensemble, ``best`` the answer's."""

    def __init__(
        self, solved: Solved, tolerance: float, answer: SolvedEnsemble | None, found: SolvedEnsemble | None = None
    ) -> None:
        self.solved, self.tolerance, self.answer = solved, tolerance, answer
        self.found = None if found is None or found.uniform else found
        self.by_primal = solved.primal_optimum is not None
        if self.by_primal:
            self.built = solved.variances.worst / solved.primal_integer
            self.best = math.nan if answer is None else float(answer.relative_variance or 0.0)
            bound = 1.0
            limits = solved.constraints.limits
        else:
            self.built = solved.cost.at(solved.dual_integer)
            bound = solved.constraints.baseline_count
            self.best = math.nan if answer is None else bound / answer.efficiency
            limits = solved.constraints.limits[1:]
        self.bound = bound * (1 - EQUAL) if solved.constraints.baseline_fits(limits) else math.inf

    def members(self) -> list[int]:
        """Indices of the band, by the objective."""
        solved = self.solved
        inside = solved.objective <= 1 + self.tolerance
        if self.answer is not None:
            inside |= np.array([widths == self.answer.widths for widths in solved.widths])
        return sorted(
            np.flatnonzero(inside).tolist(), key=lambda index: np.nan_to_num(solved.objective[index], nan=1e300)
        )

    def _within(self) -> np.ndarray:
        """Whether what is built of a member is within the tolerance of the answer."""
        return self.built <= (1 + self.tolerance) * self.best * (1 + EQUAL)

    def recommendation(self, inside: list[int]) -> Recommendation | None:
        """The largest grain, then the lowest objective, of the ensembles worth building; None where there is none."""
        solved, answer, within = self.solved, self.answer, self._within()
        if answer is None or answer.multiplicity == 1 or is_baseline(solved, answer):
            return None
        integer = solved.primal_integer if self.by_primal else solved.dual_integer
        worth = [
            index
            for index in inside
            if solved.widths[index] == answer.widths
            or (within[index] and self.built[index] < self.bound and integer[index] > 1)
        ]
        if not worth:
            return None
        index = max(worth, key=lambda at: (grain(solved.widths[at]), -self._value(at)))
        return self._recommended(index)

    def _value(self, index: int) -> float:
        assert self.answer is not None
        return self.best if self.solved.widths[index] == self.answer.widths else float(self.built[index])

    def _recommended(self, index: int) -> Recommendation:
        solved, answer = self.solved, self.answer
        assert answer is not None
        own = solved.widths[index] == answer.widths
        primal = ensemble(solved, index, solved.primal_integer[index], solved.primal_real[index])
        dual = ensemble(solved, index, solved.dual_integer[index], solved.dual_real[index])
        if own and self.by_primal:
            primal = answer
        if dual is not None and not (within_dual(dual) and dual.multiplicity > 1 and dual.efficiency > 1):
            dual = None
        loss = self._value(index) / self.best - 1
        return Recommendation(
            widths=solved.widths[index],
            reason=self._reason(solved.widths[index], loss, own) + self._apart(primal),
            loss=loss,
            primal=primal,
            dual=dual,
        )

    def _reason(self, widths: tuple[int, ...], loss: float, own: bool) -> str:
        size = grain(widths)
        tied = "" if self.found is None else "tied "
        name = f"{tied}primal" if self.by_primal else f"{tied}dual"
        what = "variance" if self.by_primal else "cost"
        if own:
            cost = f"the {name} itself"
        elif abs(loss) < DIFFERENT:
            cost = f"at the {name}'s {what}"
        else:
            cost = f"at {100 * abs(loss):.1f} % {'more' if loss > 0 else 'less'} {what} than the {name}"
        if own:
            return f"{cost}: no other ensemble within the tolerance has widths of a multiple above {size}"
        named = "the width is" if len(set(widths)) == 1 else "every width is"
        lanes = ", which fills vector lanes and groups evenly," if size >= LANES else ""
        return f"{named} a multiple of {size}{lanes} {cost}"

    def _apart(self, primal: SolvedEnsemble | None) -> str:
        """How much more the worst stage varies than that of stages with m and n of their own."""
        if self.found is None or primal is None or not self.found.relative_variance:
            return ""
        more = 100 * ((primal.relative_variance or 0.0) / self.found.relative_variance - 1)
        return f"; {more:.1f} % more variance than stages of their own"
