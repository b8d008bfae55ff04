"""The answers among measured ensembles: primal, dual, and the fastest one that is nearly as smooth as the primal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from collegium.search.latency.exploration import Exploration, Row, stage_row
from collegium.search.latency.limits import CostLimit, CostName, pareto, shown
from collegium.search.latency.result import CostFront, CostRow
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.network import Network
from collegium.search.optimize import built
from collegium.search.optimize.built import EQUAL
from collegium.search.optimize.costed_stages import CostedStages
from collegium.search.optimize.limits import ROUNDING_TOLERANCE
from collegium.search.optimize.near_optimal import grain
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.solve import Solved
from collegium.search.optimize.stages import StageProblem
from collegium.search.progress import Report, discard, scaled
from collegium.search.result import Recommendation, SolvedEnsemble


@dataclass(frozen=True)
class Costed:
    """Every row that was considered, and the answers among them; ``limits`` has what the primal may spend first.

    ``primal`` and ``dual`` are those of the solver with their costs where neither the efficiency nor a limit is one of
    time or memory. ``tied`` are the answers with one m × n for all stages, where time or memory decides.
    """

    front: CostFront
    limits: tuple[CostLimit, ...]
    rows: tuple[Row, ...]
    primal: SolvedEnsemble | None
    dual: SolvedEnsemble | None
    recommended: Recommendation | None
    tied: tuple[SolvedEnsemble | None, SolvedEnsemble | None] | None = None


def cost_answers(
    problem: GroupingProblem,
    solved: Solved,
    answers: tuple[SolvedEnsemble | None, SolvedEnsemble | None],
    times: Times | None,
    report: Report = discard,
    stages: StageProblem | None = None,
) -> Costed:
    """Time and memory of ensembles around the optima, and the answers by them; ``answers`` are the solver's.

    ``stages`` is the problem of each stage's own m and n, where that is asked for.
    """
    spec, workload = problem.spec, problem.spec.workload or Workload()
    network = problem.network
    if times is not None:
        times = times.with_threads_that_pay((network.baseline, network.multiplicity), scaled(report, 0.0, 0.05))
    until = 0.4 if stages is not None and problem.costs_decide else 0.8
    exploration = Exploration(network, solved, workload, (), times, scaled(report, 0.05, until))
    exploration.measure([])
    exploration.limits = limits = cost_limits(problem, next(iter(exploration.rows.values())))
    own = [_place(solved, answer) for answer in answers if answer is not None and answer.uniform]
    rows = exploration.run(spec.tolerance, [place for place in own if place is not None])
    tied = _Picked(problem, solved, rows, limits)
    if stages is not None and problem.costs_decide:
        tried = [(row.widths, row.multiplicity) for row in rows]
        search = CostedStages(stages, workload, spec.efficiency, limits, spec.tolerance, times, tried)
        apart = search.rows(scaled(report, until, 0.8))
    else:
        apart = [
            stage_row(network, built.stage_solution(network, one), workload, times)
            for one in answers
            if one is not None
        ]
    picked = _Picked(problem, solved, _distinct(network, [*rows, *apart]), limits)
    primal, dual = picked.answers(answers)
    recommended = picked.recommended(primal)
    front = _front(picked, workload, times, [primal, dual], scaled(report, 0.8, 1.0))
    one = tied.answers(answers) if problem.costs_decide else None
    return Costed(front, limits, tuple(picked.rows), primal, dual, recommended, one)


def _front(
    picked: _Picked,
    workload: Workload,
    times: Times | None,
    answers: Sequence[SolvedEnsemble | None],
    report: Report,
) -> CostFront:
    """The rows as they are reported, with the baseline and the answers checked whole where time was measured."""
    network = picked.network
    groupings = [network.stage_groupings(network.baseline, network.multiplicity)]
    groupings += [built.groupings(network, answer) for answer in answers if answer is not None]
    return CostFront(
        workload=workload.model_copy(update={"threads": None}).describe(),
        machine=None if times is None else times.bench.machine,
        threads=None if times is None else times.bench.threads(times.workload),
        checks=() if times is None else times.check(list(dict.fromkeys(groupings)), report),
        measured=0 if times is None else times.measured,
        reused=0 if times is None else times.reused,
        rows=_described(network, picked.rows),
    )


def cost_limits(problem: GroupingProblem, baseline: Row) -> tuple[CostLimit, ...]:
    """What the primal may spend, the baseline's own cost unless it was given, and every other limit."""
    spec = problem.spec
    hard = [CostLimit(cost, most, field=field) for field, cost, most in spec.cost_limits]
    if spec.efficiency in ("parameters", "flops"):
        budget = problem.limits[0]
        return CostLimit(budget.measure, budget.most, budget.tolerance), *hard
    own = [limit for limit in hard if limit.cost == spec.efficiency]
    others = [limit for limit in hard if limit.cost != spec.efficiency]
    return own[0] if own else CostLimit(spec.efficiency, baseline.costs[spec.efficiency]), *others, *own


def _place(solved: Solved, answer: SolvedEnsemble) -> tuple[int, int] | None:
    """The index of an answer's widths among the solved members, and its m."""
    if answer.widths not in solved.widths:
        return None
    return solved.widths.index(answer.widths), answer.multiplicity


def _distinct(network: Network, rows: Sequence[Row]) -> list[Row]:
    """Each ensemble once, the first of its rows."""
    return list({row.groupings(network): row for row in reversed(rows)}.values())[::-1]


def _described(network: Network, rows: Sequence[Row]) -> tuple[CostRow, ...]:
    """The rows, each with the costs in which it is on the front."""
    costs: tuple[CostName, ...] = ("latency", "parameters", "memory")
    on = {cost: pareto([(row.relative, row.costs[cost]) for row in rows]) for cost in costs if cost in rows[0].costs}
    return tuple(
        CostRow(
            widths=row.widths,
            label=built.label_of(network, row.groupings(network)),
            multiplicity=row.multiplicity,
            relative_variance=row.relative,
            parameters=int(row.costs["parameters"]),
            flops=int(row.costs["flops"]),
            latency_ms=row.costs.get("latency"),
            latency_error_ms=row.error,
            memory_bytes=int(row.costs["memory"]),
            fronts=tuple(cost for cost, kept in on.items() if kept[at]),  # type: ignore[arg-type]
            uniform=network.tied(row.groupings(network)) is not None,
        )
        for at, row in enumerate(rows)
    )


class _Picked:
    """Chooses among measured rows by the limits."""

    def __init__(
        self, problem: GroupingProblem, solved: Solved, rows: Sequence[Row], limits: tuple[CostLimit, ...]
    ) -> None:
        self.solved, self.rows, self.limits = solved, rows, limits
        self.network, self.costs_decide = problem.network, problem.costs_decide
        self.cost: CostName = problem.spec.efficiency
        self.tolerance = problem.spec.tolerance
        allowed = solved.constraints.baseline_allowed
        self.choices = [row for row in rows if not row.baseline or allowed]

    def answers(self, solved: Sequence[SolvedEnsemble | None]) -> tuple[SolvedEnsemble | None, SolvedEnsemble | None]:
        """Primal and dual where time or memory decides; else the solver's with what they cost."""
        if self.costs_decide:
            return self.primal(), self.dual()
        primal, dual = (self.costed(answer) for answer in solved)
        return primal, dual

    def primal(self) -> SolvedEnsemble | None:
        """The smoothest row within every limit; the baseline where none is smoother."""
        within = [row for row in self.choices if row.within(self.limits)]
        return self._ensemble(min(within, key=lambda row: (row.relative, not row.baseline), default=None))

    def dual(self) -> SolvedEnsemble | None:
        """The cheapest row with the baseline's variance in every stage; the baseline where none is cheaper."""
        within = [
            row
            for row in self.choices
            if row.within(self.limits[1:])
            and all(one <= (1 + ROUNDING_TOLERANCE if m > 1 else 1 + EQUAL) for m, one in row.members)
        ]
        return self._ensemble(
            min(within, key=lambda row: (row.costs[self.cost], not row.baseline, row.relative), default=None)
        )

    def recommended(self, primal: SolvedEnsemble | None) -> Recommendation | None:
        """The fastest row whose variance is within the tolerance of the primal's and below the baseline's.

        Where no time was measured, that whose widths are multiples of the largest power of two, then of least memory.
        """
        if primal is None or primal.relative_variance is None or (primal.uniform and primal.multiplicity == 1):
            return None
        bound = min((1 + self.tolerance) * primal.relative_variance * (1 + EQUAL), 1 - EQUAL)
        within = [
            row
            for row in self.choices
            if max(row.members)[0] > 1 and row.relative <= bound and row.within(self.limits) and not row.baseline
        ]
        best = min(within, key=lambda row: self._hardware(row, primal), default=None)
        found = self._ensemble(best)
        if best is None or found is None:
            return None
        own = found.label == primal.label
        loss = 0.0 if own else best.relative / primal.relative_variance - 1
        reason = self._reason(own, loss, len(within), best)
        return Recommendation(widths=found.widths, reason=reason, loss=loss, primal=found, dual=None)

    def _hardware(self, row: Row, primal: SolvedEnsemble) -> tuple[float, ...]:
        """What the recommended row has least of: time, or unevenness, and then memory unless it is the primal."""
        if "latency" in row.costs:
            return (row.costs["latency"],)
        own = row.groupings(self.network) == built.groupings(self.network, primal)
        return (-self._grain(row), not own, row.costs["memory"])

    def _grain(self, row: Row) -> int:
        return min(grain(one.widths) for one in row.groupings(self.network))

    def _reason(self, own: bool, loss: float, others: int, best: Row) -> str:
        timed = "latency" in best.costs
        cost: CostName = "latency" if timed else "memory"
        spent, near = shown(cost, best.costs[cost]), f"at most {100 * self.tolerance:g} % more variance"
        how = "measured" if timed else "counted"
        if own and others == 1:
            return f"the primal itself, at {spent}: no other {how} ensemble has {near}"
        if own and not timed:
            return f"the primal itself, at {spent}: none of {others} counted ensembles with {near} has evener widths"
        where = "the primal itself" if own else f"{100 * abs(loss):.1f} % {'more' if loss > 0 else 'less'} variance"
        first = "the fastest" if timed else f"widths of a multiple of {self._grain(best)}, the evenest"
        return f"{where}, {first} of {others} {how} ensembles with {near} than the primal: {spent}"

    def costed(self, answer: SolvedEnsemble | None) -> SolvedEnsemble | None:
        """An answer of the solver with its time and memory, where its row was considered."""
        if answer is None:
            return answer
        own = built.groupings(self.network, answer)
        row = next((row for row in self.rows if row.groupings(self.network) == own), None)
        return answer if row is None else answer.model_copy(update=_costs(row))

    def _ensemble(self, row: Row | None) -> SolvedEnsemble | None:
        if row is None:
            return None
        if row.stages is not None:
            found = built.own_ensemble(self.solved, row.stages)
        elif row.index is None:
            found = built.baseline_ensemble(self.solved)
        else:
            found = built.ensemble(self.solved, row.index, row.multiplicity, float(row.multiplicity))
        assert found is not None
        return found.model_copy(update=_shares(row, self.rows[0], self.cost, self.limits))


def _shares(row: Row, baseline: Row, cost: CostName, limits: Sequence[CostLimit]) -> dict[str, float | int | None]:
    """What an answer has of its row: the share of the budget, that of the baseline's cost, time and memory."""
    share = row.costs[limits[0].cost] / limits[0].most
    return {"efficiency": baseline.costs[cost] / row.costs[cost], "budget_share": share, **_costs(row)}


def _costs(row: Row) -> dict[str, float | int | None]:
    return {"latency_ms": row.costs.get("latency"), "memory_bytes": int(row.costs["memory"])}
