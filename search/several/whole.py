"""Time and memory of a network whose parts are all grouped, measured and counted whole.

The search of a part measures the whole network with every other part as it is. What the parts save there adds up to
what they save together, but for caches and for the place where the most memory is held; so the answers of all parts
together are measured once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from collegium.search.errors import InvalidSpec
from collegium.search.latency.limits import CostLimit, CostName, pareto, shown
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.parts import whole
from collegium.search.latency.result import CostFront, CostRow, WholeCheck
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.network import StageGrouping
from collegium.search.networks.segment import Repeated
from collegium.search.outcomes.feasibility import disagreeing
from collegium.search.part import named_widths
from collegium.search.progress import Report, scaled
from collegium.search.result import Outcome, Recommendation, SearchResult, SolvedEnsemble
from collegium.search.several.shares import FIELDS, members_cost
from collegium.search.spec import SearchSpec

Load = Callable[[str], dict[str, Any] | None]
Store = Callable[[str, dict[str, Any]], None]
#: Answers by the field of the result.
ANSWERS = ("primal", "dual", "recommended")
#: A part is small where its members' widths are divided by so much.
SMALL = 8
#: How the keys of times begin.
TIMES = "latency-"


@dataclass
class Records:
    """Records of one search, and beneath them those that are stored: what one part measured, the next one reads."""

    stored: Load | None
    store_too: Store | None
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)

    def load(self, key: str) -> dict[str, Any] | None:
        """The record of that key, of this search or an earlier one."""
        if key in self.own:
            return self.own[key]
        record = None if self.stored is None else self.stored(key)
        if record is not None:
            self.reused.add(key)
        return record

    def store(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record."""
        self.own[key] = record
        if self.store_too is not None:
            self.store_too(key, record)

    @property
    def counts(self) -> tuple[int, int]:
        """How many times were measured in this search, and how many read of earlier ones."""
        measured, reused = (sum(key.startswith(TIMES) for key in keys) for keys in (self.own, self.reused))
        return measured, reused


@dataclass
class CostsOfWhole:
    """What the answers of all parts together cost under the workload; ``times`` is None where memory alone is counted.

    ``own`` are the baseline's costs, ``given`` the limits of the specification on them, and ``most`` also what the
    primal may spend where that is the baseline's own.
    """

    spec: SearchSpec
    network: GraphNetwork
    times: Times | None
    records: Records
    own: dict[CostName, float] = field(default_factory=dict)
    error: float | None = None
    weights: dict[CostName, list[float]] = field(default_factory=dict)

    def begin(self, report: Report) -> None:
        """Measure the baseline, and what every part takes of it: what the network takes less where it is small."""
        network = self.network
        baseline = network.baseline, network.multiplicity
        self.own = {"memory": memory_bytes(network, network.stage_groupings(*baseline), self._workload)}
        if self.times is not None:
            self.times = self.times.with_threads_that_pay(baseline, scaled(report, 0.0, 0.5))
            (timing,) = self.times.of([baseline], report)
            self.own["latency"], self.error = 1e3 * timing.seconds, 1e3 * timing.standard_error
        if self.most:
            self._weigh(scaled(report, 0.5, 1.0))

    def _weigh(self, report: Report) -> None:
        parts = self.network.parts
        small = [(part, part.stage_groupings(part.scaled(max(1, part.baseline[0] // SMALL)), 1)) for part in parts]
        costs: dict[CostName, list[float]] = {}
        try:
            costs["memory"] = [memory_bytes(part, stages, self._workload) for part, stages in small]
            if self.times is not None:
                segments = [whole(part, stages, self._workload.image_size) for part, stages in small]
                timings = self.times.of_parts([[Repeated(segment, 1)] for segment in segments], report)
                costs["latency"] = [1e3 * timing.seconds for timing in timings]
        except InvalidSpec:  # a part whose norms have groups that do not divide so few channels
            costs = {}
        for cost, own in self.own.items():
            saved = [max(0.0, own - each) for each in costs.get(cost, ())]
            if sum(saved) <= 0:
                measure = "flops" if cost == "latency" else "parameters"
                saved = [float(members_cost(part, measure)) for part in parts]
            self.weights[cost] = [each / sum(saved) for each in saved]

    def shares(self, index: int, allowed: Mapping[CostName, float]) -> dict[CostName, float]:
        """The limits of the part of that index, which has its share of what is to be saved, or may be spent besides."""
        return {
            cost: self.own[cost] + (most - self.own[cost]) * self.weights[cost][index] for cost, most in allowed.items()
        }

    @property
    def given(self) -> dict[CostName, float]:
        """The limits that bind every answer."""
        return {cost: most for _, cost, most in self.spec.cost_limits if cost in FIELDS}

    @property
    def most(self) -> dict[CostName, float]:
        """The limits that bind the primal."""
        cost = self.spec.efficiency
        own: dict[CostName, float] = {cost: self.own[cost]} if cost in FIELDS else {}
        return own | self.given

    def of(self, found: SearchResult, parts: Sequence[SearchResult], report: Report) -> SearchResult:
        """The result with its answers measured together; ``parts`` are the searches of its parts."""
        answers = {name: answer for name in ANSWERS if (answer := getattr(found, name)) is not None}
        changed: dict[str, Any] = {}
        rows, checks = [self._baseline(found, parts)], []
        for index, (name, answer) in enumerate(answers.items()):
            share = scaled(report, index / len(answers), (index + 1) / len(answers))
            row = self._row(answer, share)
            changed[name] = answer.model_copy(update=self._costs(row))
            if row.label not in [one.label for one in rows]:
                rows.append(row)
                checks += self._check(row, [getattr(each, name) for each in parts], parts)
        cost = self.spec.efficiency
        if cost in FIELDS:
            changed["budget"] = self.most[cost]
        changed["costs"] = self._front(rows, checks)
        note = disagreeing(checks)
        changed["notes"] = found.notes if note is None else (*found.notes, note)
        return found.model_copy(update=changed)

    def exceeded(self, found: SearchResult) -> dict[CostName, float]:
        """By how much primal and dual exceed what they may cost, with the error of the measurement; empty where none.

        What is recommended is left out where it exceeds that.
        """
        over: dict[CostName, float] = {}
        for name, row in self._answers(found):
            for limit in self._limits(name) if name != "recommended" else ():
                excess = _cost(row, limit.cost) - limit.most
                if excess > 0:
                    error = (row.latency_error_ms or 0.0) if limit.cost == "latency" else 0.0
                    over[limit.cost] = max(over.get(limit.cost, 0.0), excess + error)
        return over

    def within(self, found: SearchResult) -> SearchResult:
        """The result without the answers that exceed their limits, and with what is recommended among the others."""
        changed: dict[str, Any] = {}
        notes = list(found.notes)
        for name, row in self._answers(found):
            over = [limit for limit in self._limits(name) if _cost(row, limit.cost) > limit.most]
            if over:
                changed[name] = None
                if name != "recommended":
                    notes.append(_exceeding(name, row, over[0]))
        found = found.model_copy(update={**changed, "notes": tuple(notes)})
        if found.primal is None and found.dual is None and changed:
            found = found.model_copy(update={"outcome": notes[-1], "notes": tuple(notes[:-1])})
        return self._with_recommended(found)

    def _with_recommended(self, found: SearchResult) -> SearchResult:
        """The recommended ensembles of all parts together, unless the primal is as fast."""
        near, primal, pick = found.near_optimal, found.primal, found.recommended
        if primal is None or pick is None or (primal.latency_ms or 0.0) < (pick.latency_ms or 0.0):
            pick = primal
        recommendation = None
        if pick is not None and primal is not None:
            cost: CostName = "memory" if pick.latency_ms is None else "latency"
            spent = shown(cost, float(pick.memory_bytes or 0) if cost == "memory" else float(pick.latency_ms or 0))
            reason = "the primal itself" if pick == primal else "what is recommended for each part, together"
            ratio = (pick.relative_variance or 1.0) / (primal.relative_variance or 1.0)
            recommendation = Recommendation(
                widths=pick.widths, reason=f"{reason}: {spent}", loss=ratio - 1, primal=pick, dual=None
            )
        changed: dict[str, Any] = {"recommended": pick}
        if near is not None:
            changed["near_optimal"] = near.model_copy(update={"recommended": recommendation})
        return found.model_copy(update=changed)

    @property
    def _workload(self) -> Workload:
        return self.spec.workload or Workload()

    def _limits(self, name: str) -> list[CostLimit]:
        limits = self.given if name == "dual" else self.most
        return [CostLimit(cost, most, field=FIELDS[cost]) for cost, most in limits.items()]

    def _answers(self, found: SearchResult) -> list[tuple[str, CostRow]]:
        rows = {row.label: row for row in found.costs.rows} if found.costs is not None else {}
        answers = [(name, getattr(found, name)) for name in ANSWERS]
        return [(name, rows[answer.label]) for name, answer in answers if answer is not None]

    def _costs(self, row: CostRow) -> dict[str, Any]:
        """What an answer has of its row."""
        costs: dict[str, Any] = {"latency_ms": row.latency_ms, "memory_bytes": row.memory_bytes}
        cost = self.spec.efficiency
        if cost in FIELDS:
            spent = _cost(row, cost)
            costs |= {"efficiency": self.own[cost] / spent, "budget_share": spent / self.most[cost]}
        return costs

    def _row(self, answer: SolvedEnsemble, report: Report) -> CostRow:
        changes = [(each.paths, StageGrouping(each.widths, each.multiplicity)) for each in answer.branches]
        network = self.network.together(changes)
        latency = error = None
        if self.times is not None:
            segment = whole(network, network.stages, self._workload.image_size)
            (timing,) = self.times.of_parts([[Repeated(segment, 1)]], report)
            latency, error = 1e3 * timing.seconds, 1e3 * timing.standard_error
        return CostRow(
            widths=answer.widths,
            label=answer.label,
            multiplicity=answer.multiplicity,
            relative_variance=1.0 if answer.relative_variance is None else answer.relative_variance,
            parameters=answer.parameters,
            flops=answer.flops,
            latency_ms=latency,
            latency_error_ms=error,
            memory_bytes=memory_bytes(network, network.stages, self._workload),
            uniform=False,
        )

    def _baseline(self, found: SearchResult, parts: Sequence[SearchResult]) -> CostRow:
        base = found.baseline
        own = [each.baseline for each in parts]
        return CostRow(
            widths=base.widths,
            label="; ".join(f"{one.multiplicity}×{named_widths(one.widths)}" for one in own),
            multiplicity=base.multiplicity,
            relative_variance=1.0,
            parameters=base.parameters,
            flops=base.flops,
            latency_ms=self.own.get("latency"),
            latency_error_ms=self.error,
            memory_bytes=int(self.own["memory"]),
            uniform=False,
        )

    def _check(
        self, row: CostRow, answers: Sequence[SolvedEnsemble | None], parts: Sequence[SearchResult]
    ) -> list[WholeCheck]:
        """The time measured whole beside the baseline's and what each part changed of it alone."""
        if row.latency_ms is None:
            return []
        base = self.own["latency"]
        changed = [one for one in map(_alone, answers, parts) if one is not None and one.latency_ms is not None]
        if len(changed) < 2:  # it is the network that the part's own search measured
            return []
        total = base + sum((one.latency_ms or base) - base for one in changed)
        squares = (self.error or 0.0) ** 2 + sum((one.latency_error_ms or 0.0) ** 2 for one in changed)
        return [
            WholeCheck(
                widths=row.widths,
                multiplicity=row.multiplicity,
                label=row.label,
                whole_ms=row.latency_ms,
                whole_error_ms=row.latency_error_ms or 0.0,
                sum_ms=total,
                sum_error_ms=math.sqrt(squares),
                deviation=total / row.latency_ms - 1,
            )
        ]

    def _front(self, rows: list[CostRow], checks: list[WholeCheck]) -> CostFront:
        times = self.times
        costs: tuple[CostName, ...] = ("latency", "parameters", "memory") if times else ("parameters", "memory")
        on = {cost: pareto([(row.relative_variance, _cost(row, cost)) for row in rows]) for cost in costs}
        fronts = [tuple(cost for cost, kept in on.items() if kept[at]) for at in range(len(rows))]
        measured, reused = self.records.counts
        return CostFront(
            workload=self._workload.model_copy(update={"threads": None}).describe(),
            machine=None if times is None else times.bench.machine,
            threads=None if times is None else times.bench.threads(times.workload),
            measured=measured,
            reused=reused,
            rows=tuple(row.model_copy(update={"fronts": own}) for row, own in zip(rows, fronts, strict=True)),
            checks=tuple(checks),
        )


def _alone(answer: SolvedEnsemble | None, part: SearchResult) -> CostRow | None:
    """The row of a part's answer in its own search; None where it stays as it is."""
    if answer is None or part.costs is None:
        return None
    own = next((at for at, row in enumerate(part.costs.rows) if row.label == answer.label), 0)
    return part.costs.rows[own] if own else None


def _cost(row: CostRow, cost: CostName) -> float:
    value = {
        "latency": row.latency_ms,
        "memory": row.memory_bytes,
        "parameters": row.parameters,
        "flops": row.flops,
    }[cost]
    return math.inf if value is None else float(value)


def _exceeding(name: str, row: CostRow, limit: CostLimit) -> Outcome:
    return Outcome(
        kind="infeasible_budget",
        message=f"The {name}s of all parts together, {row.label}, take {shown(limit.cost, _cost(row, limit.cost))}, "
        f"more than the {shown(limit.cost, limit.most)} that are allowed, though each part keeps its share.",
        remedy=f"Raise {limit.field}, or regroup one part alone: 'branches' has its search.",
    )
