"""What an outcome is judged by, and how answers are named in its sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from collegium.search.curve.fit import Point
from collegium.search.curve.source import LogRatios
from collegium.search.latency.limits import COSTS
from collegium.search.latency.selection import Costed
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.solve import Solved
from collegium.search.optimize.stages import StageProblem
from collegium.search.result import Alpha, SolvedEnsemble, SpotCheck, Verification


@dataclass(frozen=True)
class Evidence:
    """Everything that an outcome depends on.

    ``tied`` are the answers with one m × n for all stages, counted in parameters or FLOPs; ``ensembles`` have one of
    each stage's own where that is asked for, or are chosen by what ``costed`` measured.
    """

    problem: GroupingProblem
    solved: Solved
    log_ratios: LogRatios
    alpha: Alpha
    points: Sequence[Point]
    check: SpotCheck | None = None
    verification: Verification | None = None
    ensembles: tuple[SolvedEnsemble | None, SolvedEnsemble | None] = field(default=(None, None))
    tied: tuple[SolvedEnsemble | None, SolvedEnsemble | None] = field(default=(None, None))
    stages: StageProblem | None = None
    costed: Costed | None = None

    @property
    def rounding(self) -> float:
        """The share by which the primal may exceed the baseline's own cost; 0 where m is not rounded to it."""
        if self.costed is not None and self.problem.costs_decide:
            return self.costed.limits[0].tolerance
        return self.solved.constraints.budget.tolerance

    @property
    def given_budget(self) -> bool:
        """Whether what the primal may spend was given, and is not the baseline's own cost."""
        spec = self.problem.spec
        given = {"latency": spec.max_latency_ms, "memory": spec.max_memory_bytes}
        return given.get(spec.efficiency, spec.budget) is not None

    @property
    def baseline_known(self) -> bool:
        """Whether ln r of the baseline's member is known: sampled, it may not have converged."""
        return bool(np.isfinite(self.log_ratios(np.array([self.problem.network.baseline]))[0]))

    @property
    def missed(self) -> tuple[Point, ...]:
        """Points that were sampled and have not converged."""
        return tuple(point for point in self.points if not point.converged)

    @property
    def sampled(self) -> bool:
        """Whether the curve was sampled, and is not the closed form."""
        return any(point.samples for point in self.points)

    @property
    def narrower_unknown(self) -> bool:
        """Whether the space has members narrower than all at which ln r is known and not beyond what is considered."""
        known = [widths[0] for widths in self.solved.widths]
        return bool(known) and any(widths[0] < min(known) for widths in self.problem.members)


def varies(answer: SolvedEnsemble, of: str = "the baseline's variance") -> str:
    """Such as ``20×17 has 44 % of the baseline's variance``; where there are several stages, of the worst."""
    share = f"{percent(answer.relative_variance or 0.0)} of {of}"
    where = f"at most {share} in every stage" if len(answer.stages) > 1 else share
    return f"{named(answer)} has {where}"


def at_cost(evidence: Evidence, answer: SolvedEnsemble) -> str:
    """Such as ``at 100.8 % of its parameters``, the baseline's, or ``at 99.8 % of the budget``."""
    of = "the budget" if evidence.given_budget else f"its {COSTS[evidence.problem.spec.efficiency]}"
    return f"at {100 * (answer.budget_share or 0.0):.1f} % of {of}"


def saves(evidence: Evidence, answer: SolvedEnsemble) -> str:
    """Such as ``with 2.18 times fewer parameters``; ``as many`` where an answer costs more than the baseline."""
    if answer.efficiency >= 1:
        return f"with {answer.efficiency:.2f} times {fewer(evidence)}"
    countable = evidence.problem.spec.efficiency in ("parameters", "flops")
    much = "as many" if countable else "as much"
    return f"with {1 / answer.efficiency:.2f} times {much} {COSTS[evidence.problem.spec.efficiency]}"


def fewer(evidence: Evidence) -> str:
    """``fewer parameters``, ``less time``."""
    cost = evidence.problem.spec.efficiency
    return f"{'fewer' if cost in ('parameters', 'flops') else 'less'} {COSTS[cost]}"


def percent(share: float) -> str:
    """A share in percent; one that is not 0 is never printed as 0."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def named(answer: SolvedEnsemble) -> str:
    """m × n, such as ``20×17``; of every stage where each has its own."""
    return answer.label
