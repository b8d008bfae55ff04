"""Each stage's own m and n by time and memory: limits hold, and trying every pair of groupings finds nothing better."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium import build_model
from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.latency.exploration import MOST_SECONDS
from collegium.search.latency.limits import CostLimit
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.stage_costs import StageMemory, StageTimes, predicted
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.build import validate_search
from collegium.search.networks.families.resnext import ResidualNetwork
from collegium.search.networks.network import StageGrouping
from collegium.search.optimize.candidates import stage_members
from collegium.search.optimize.costed_stages import CostedStages
from collegium.search.optimize.problem import build_problem
from collegium.search.optimize.stages import StageProblem
from collegium.search.parse import parse_spec
from collegium.search.result import SearchResult
from collegium.search.spec import SearchSpec
from collegium.search.validate import check_search

SMALL = {"family": "resnext", "layout": "cifar", "blocks": [1, 2], "base_width": 6}
LARGER = {"family": "resnext", "layout": "cifar", "depth": 11, "base_width": 32}
RESNETS = [LARGER, SMALL | {"layout": "imagenet", "blocks": [2, 1, 3]}, SMALL | {"block": "basic", "cardinality": 3}]
WORKLOADS = [
    Workload(),
    Workload(batch_size=7, precision="bf16", image_size=40),
    Workload(mode="training", batch_size=4, optimizer="adam"),
    Workload(mode="training", batch_size=4, precision="bf16"),
]


def spec_of(baseline, *, space=None, **fields) -> SearchSpec:
    asked = {"baseline": baseline, "estimator": {"method": "exact"}, "space": {"stages": "own", **(space or {})}}
    return parse_spec(SearchSpec, asked | fields)


def groupings_of(network, answer):
    if answer.uniform:
        return network.stage_groupings(answer.widths, answer.multiplicity)
    return tuple(StageGrouping(one.widths, one.multiplicity) for one in answer.stages)


def keeps(answer) -> bool:
    """Whether every stage keeps the dual's constraint."""
    return all(one.relative_variance <= (1.025 if one.multiplicity > 1 else 1 + 1e-9) for one in answer.stages)


def own_groupings(network):
    """Groupings of each stage that have nothing to do with each other."""
    for draw in range(6):
        yield tuple(
            StageGrouping(
                tuple(1 + (7 * draw + 3 * stage) % 11 * scale for _ in network.baseline), 1 + (draw + stage) % 5
            )
            for stage, scale in enumerate(network.stage_scales)
        )


@pytest.mark.parametrize("baseline", RESNETS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=Workload.describe)
def test_memory_is_the_largest_of_its_sums_over_stages(network, baseline, workload):
    net = network(baseline)
    cost = StageMemory(net, workload)
    for stages in own_groupings(net):
        terms = [
            cost.terms(stage, [one.widths], np.zeros(1, int), np.array([float(one.multiplicity)]))[:, 0]
            for stage, one in enumerate(stages)
        ]
        assert max(np.array(cost.fixed) + np.sum(terms, axis=0)) == memory_bytes(net, stages, workload)


@pytest.mark.parametrize("baseline", RESNETS)
def test_time_is_the_sum_over_stages_and_what_is_between(network, baseline, make_bench):
    net, bench = network(baseline), make_bench()
    times = Times(net, Workload(), bench)
    cost = StageTimes(net, times)
    for stages in own_groupings(net):
        total = cost.fixed[0]
        for stage, one in enumerate(stages):
            cost.add(stage, one, times.of_parts([cost.parts(stage, one)])[0].seconds)
            assert cost.knows(stage, one)
            total += cost.terms(stage, [one.widths], np.zeros(1, int), np.array([float(one.multiplicity)]))[0, 0]
        assert total == pytest.approx(1e-6 * net.count_stages("parameters", stages))
        assert total == pytest.approx(1e3 * times.of_stages(stages).seconds)
    other = StageGrouping((999,) * len(net.baseline), 1)
    assert not cost.knows(0, other)
    assert cost.terms(0, [other.widths], np.zeros(1, int), np.ones(1)).tolist() == [[math.inf]]


def test_a_line_that_falls_is_not_followed_below_what_was_measured():
    beyond = predicted({2: 4.0, 4: 3.0}, np.array([1.0, 8.0]))
    assert 0 < beyond[0] < 4.0
    assert beyond[1] > 3.0


class Every:
    """Every grouping of each stage of a small network with at most five members, and each pair of them, with costs."""

    MOST = 5

    def __init__(self, spec: SearchSpec, workload: Workload) -> None:
        problem = build_problem(spec)
        self.network, workload = problem.network, workload
        base = problem.constraints(problem.exact).baseline_variances
        each = []
        for stage, scale in enumerate(self.network.stage_scales):
            members = stage_members(self.network, spec.space, scale)
            single = np.expm1(problem.exact(np.array(members, float))) / base[stage]
            each.append([
                (StageGrouping(member, m), float(one) / m)
                for member, one in zip(members, single, strict=True)
                for m in range(1, self.MOST + 1)
            ])  # fmt: skip
        self.pairs = []
        for pair in itertools.product(*each):
            stages = tuple(one for one, _ in pair)
            costs = {
                "parameters": self.network.count_stages("parameters", stages),
                "flops": self.network.count_stages("flops", stages),
                "memory": memory_bytes(self.network, stages, workload),
            }
            self.pairs.append((stages, [relative for _, relative in pair], costs))

    def smoothest(self, limits):
        """The least variance of the worst stage within limits; infinite where none is."""
        fits = (max(rel) for _, rel, costs in self.pairs if all(costs[name] <= most for name, most in limits.items()))
        return min(fits, default=math.inf)

    def cheapest(self, cost, limits):
        """The least cost with the baseline's variance in every stage within limits; infinite where none is."""
        return min(
            (
                costs[cost]
                for stages, relative, costs in self.pairs
                if all(costs[name] <= most for name, most in limits.items())
                and all(
                    rel <= (1.025 if one.multiplicity > 1 else 1 + 1e-9)
                    for one, rel in zip(stages, relative, strict=True)
                )
            ),
            default=math.inf,
        )


@pytest.fixture(scope="module")
def every():
    found = {}

    def of(workload):
        if workload not in found:
            space = {"max_multiplicity": Every.MOST}
            found[workload] = Every(spec_of(SMALL, space=space), workload)
        return found[workload]

    return of


@settings(max_examples=6)
@given(
    workload=st.sampled_from([Workload(batch_size=8), Workload(mode="training", batch_size=4)]),
    shares=st.fixed_dictionaries(
        {},
        optional={"memory": st.floats(0.85, 1.2), "parameters": st.floats(0.5, 1.2), "flops": st.floats(0.5, 1.2)},
    ),
)
def test_no_pair_of_groupings_is_better_by_memory(every, make_bench, workload, shares):
    truth = every(workload)
    network = truth.network
    own = network.stage_groupings(network.baseline, network.multiplicity)
    base = {
        "parameters": network.count_stages("parameters", own),
        "flops": network.count_stages("flops", own),
        "memory": memory_bytes(network, own, workload),
    }
    limits = {name: round(share * base[name]) for name, share in shares.items()}
    fields = {"memory": "max_memory_bytes", "parameters": "max_parameters", "flops": "max_flops"}
    asked = {fields[name]: most for name, most in limits.items()}
    space = {"max_multiplicity": Every.MOST}
    spec = spec_of(SMALL, space=space, efficiency="memory", workload=workload.model_dump(), **asked)
    result = run(spec, bench=make_bench())
    budget = {"memory": base["memory"]} | limits
    best = truth.smoothest(budget)
    if result.primal is None:
        assert best == math.inf
    else:
        assert result.primal.relative_variance == pytest.approx(best, rel=1e-9)
        check_costs(result.primal, network, workload, budget)
    if result.recommended is not None:
        check_costs(result.recommended, network, workload, budget)
    least = truth.cheapest("memory", limits)
    if result.dual is None:
        assert least == math.inf
    else:
        assert result.dual.memory_bytes == least
        assert keeps(result.dual)
        check_costs(result.dual, network, workload, limits)


def check_costs(answer, network, workload, limits):
    """The costs that stand beside an answer are those of its network, and within the limits."""
    stages = groupings_of(network, answer)
    costs = {
        "parameters": network.count_stages("parameters", stages),
        "flops": network.count_stages("flops", stages),
        "memory": memory_bytes(network, stages, workload),
    }
    assert (answer.parameters, answer.flops, answer.memory_bytes) == tuple(costs.values())
    assert all(costs[name] <= most for name, most in limits.items())


@pytest.fixture(scope="module")
def timed(make_bench):
    """The answer of the larger network, where time is proportional to parameters, and what was timed for it."""
    bench = make_bench()
    return run(spec_of(LARGER, efficiency="latency"), bench=bench), bench


@pytest.mark.parametrize("baseline", [LARGER, SMALL | {"base_width": 16}])
def test_where_time_is_proportional_to_parameters_both_give_the_same_answers(make_bench, timed, baseline):
    parameters = validate_search(spec_of(baseline)).count("parameters", (baseline["base_width"],) * 2, 1)
    counted = run(spec_of(baseline, budget=parameters))
    timed = timed[0] if baseline is LARGER else run(spec_of(baseline, efficiency="latency"), bench=make_bench())
    assert timed.primal.relative_variance <= 1.02 * counted.primal.relative_variance
    assert timed.primal.latency_ms <= 1e-6 * parameters * (1 + 1e-9)
    assert keeps(timed.dual)
    assert timed.dual.efficiency >= 0.98 * counted.dual.efficiency
    assert not timed.dual.uniform
    assert timed.dual.efficiency > timed.tied_dual.efficiency
    assert timed.primal.relative_variance <= timed.tied_primal.relative_variance
    assert timed.dual.label in timed.outcome.message
    built = build_model({"baseline": baseline, **timed.dual.grouping})
    assert sum(parameter.numel() for parameter in built.parameters()) == timed.dual.parameters


@settings(max_examples=4)
@given(
    shares=st.fixed_dictionaries(
        {"latency": st.floats(0.4, 1.3)},
        optional={"parameters": st.floats(0.4, 1.2), "memory": st.floats(0.9, 1.1)},
    ),
    saved=st.sampled_from(["latency", "parameters", "memory"]),
    odd=st.floats(1.0, 2.0),
)
def test_limits_are_kept_whatever_the_times(make_bench, shares, saved, odd):
    bench = make_bench()
    bench.seconds = lambda segment, workload: 1e-9 * segment.parameters * (odd if segment.parameters % 3 else 1)
    network, workload = validate_search(spec_of(LARGER)), Workload()
    times = Times(network, workload, bench)
    own = network.stage_groupings(network.baseline, network.multiplicity)
    base = {
        "parameters": network.count_stages("parameters", own),
        "memory": memory_bytes(network, own, workload),
        "latency": 1e3 * times.of_stages(own).seconds,
    }
    limits = {name: share * base[name] for name, share in shares.items()}
    limits = {name: most if name == "latency" else round(most) for name, most in limits.items()}
    fields = {"memory": "max_memory_bytes", "parameters": "max_parameters", "latency": "max_latency_ms"}
    space = {"multiple_of": 2, "max_multiplicity": 12}
    asked = {fields[name]: most for name, most in limits.items()}
    result = run(spec_of(LARGER, efficiency=saved, space=space, **asked), bench=bench)
    for answer in (result.primal, result.dual, result.tied_primal, result.tied_dual):
        if answer is None:
            continue
        stages = groupings_of(network, answer)
        spent = {
            "parameters": network.count_stages("parameters", stages),
            "memory": memory_bytes(network, stages, workload),
            "latency": 1e3 * times.of_stages(stages).seconds,
        }
        assert answer.latency_ms == pytest.approx(spent["latency"])
        assert all(spent[name] <= most * (1 + 1e-9) for name, most in limits.items())
        assert all(one.multiplicity <= 12 and not any(width % 2 for width in one.widths) for one in stages)
    if result.dual is not None:
        assert keeps(result.dual)
        assert result.dual.efficiency >= (result.tied_dual.efficiency if result.tied_dual else 0)
    if result.primal is not None and saved == "parameters":
        assert result.primal.parameters <= 1.025 * base["parameters"]
    if result.recommended is not None:
        assert result.recommended.relative_variance <= 1.025 * result.primal.relative_variance * (1 + 1e-9)
        assert result.recommended.latency_ms <= limits["latency"]


def test_answers_of_own_stages_are_rows_and_are_checked_whole(timed):
    result, _ = timed
    rows = {row.label: row for row in result.costs.rows}
    assert len(rows) == len(result.costs.rows)
    for answer in (result.primal, result.dual, result.recommended, result.tied_primal, result.tied_dual):
        row = rows[answer.label]
        assert (row.uniform, row.parameters) == (answer.uniform, answer.parameters)
        assert (row.latency_ms, row.memory_bytes) == (answer.latency_ms, answer.memory_bytes)
        assert row.relative_variance == pytest.approx(answer.relative_variance)
    assert rows[result.dual.label].fronts  # nothing that was measured beats it
    assert sum(not row.uniform for row in rows.values()) > 4
    checked = {check.label: check for check in result.costs.checks}
    assert set(checked) == {result.costs.baseline.label, result.primal.label, result.dual.label}
    for check in checked.values():
        assert check.deviation == pytest.approx(0, abs=1e-9)
    assert SearchResult.model_validate_json(result.model_dump_json()) == result


def test_a_workload_alone_leaves_the_answers_of_own_stages_and_measures_them(make_bench):
    plain = run(spec_of(LARGER))
    measured = run(spec_of(LARGER, workload={"batch_size": 8}), bench=make_bench())
    network = validate_search(spec_of(LARGER))
    for name in ("primal", "dual"):
        own, other = getattr(measured, name), getattr(plain, name)
        assert own.label == other.label
        assert own.latency_ms == pytest.approx(8e-6 * own.parameters)
        assert own.memory_bytes == memory_bytes(network, groupings_of(network, own), Workload(batch_size=8))
        assert own.label in {row.label for row in measured.costs.rows}
    assert measured.outcome == plain.outcome
    assert (measured.tied_primal.label, measured.tied_dual.label) == (plain.tied_primal.label, plain.tied_dual.label)


def test_a_second_search_of_own_stages_measures_nothing(make_bench):
    stored = {}
    spec = spec_of(LARGER, efficiency="latency", max_parameters=800_000)
    first = run(spec, bench=make_bench(), load=stored.get, store=stored.__setitem__)
    idle = make_bench()
    second = run(spec, bench=idle, load=stored.get, store=stored.__setitem__)
    assert idle.visits == []
    assert (second.primal, second.dual, second.recommended) == (first.primal, first.dual, first.recommended)
    assert second.costs.rows == first.costs.rows


def test_networks_that_take_long_are_explored_in_fewer_stages(make_bench, timed):
    (_, brief), long = timed, make_bench()
    plain = long.seconds
    long.seconds = lambda segment, workload: 2000 * plain(segment, workload)
    run(spec_of(LARGER, efficiency="latency"), bench=long)
    assert len(set(long.visits)) < 0.7 * len(set(brief.visits))


@pytest.mark.parametrize("seconds", [1e-3, 10.0, 60.0])
def test_a_device_that_takes_long_to_build_what_is_timed_builds_fewer_stages(make_bench, seconds):
    """What measuring takes is bounded; the answers are among what was measured, and keep their limits."""

    class Slow(make_bench):
        now = 0.0

        def prepare(self, segment, workload):
            self.now += seconds
            return super().prepare(segment, workload)

    bench, workload = Slow(), Workload(threads=1)
    problem = build_problem(spec_of(LARGER, efficiency="latency"))
    network = problem.network
    times = Times(network, workload, bench, clock=lambda: bench.now)
    tied = [(network.baseline, network.multiplicity), ((8, 8), 6)]
    own = 1e3 * times.of(tied)[0].seconds
    spent = times.spent
    limits = (CostLimit("latency", own), CostLimit("latency", 0.9 * own))
    stages = StageProblem(network, problem.constraints(problem.exact), problem.spec.space, problem.exact)
    found = CostedStages(stages, workload, "latency", limits, 0.025, times, tied).solve()
    assert found.primal is not None or seconds >= 60
    for one in found:
        assert 1e3 * times.of_stages(one.stages).seconds <= 0.9 * own * (1 + 1e-9)
    assert times.spent - spent <= MOST_SECONDS + 20 * seconds
    distinct = len(set(bench.built))
    assert distinct > 60 if seconds < 1 else distinct < 60 + 3 * MOST_SECONDS / seconds


def test_a_network_of_one_stage_is_grouped_as_ever(make_bench):
    mlp = {"family": "mlp", "inputs": 32, "hidden": [40] * 3}
    own, tied = (
        run(spec_of(mlp, efficiency="latency", space={"stages": stages}), bench=make_bench())
        for stages in ("own", "tied")
    )
    assert (own.primal, own.dual, own.costs.rows) == (tied.primal, tied.dual, tied.costs.rows)


def test_progress_never_runs_backwards(make_bench):
    seen = []
    run(
        spec_of(SMALL, efficiency="latency"), bench=make_bench(), report=lambda fraction, message: seen.append(fraction)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


class Undivided(ResidualNetwork):
    """A residual network that names no parts."""

    def segments(self, stages, size=None):
        return []


def test_families_whose_stages_have_no_parts_are_refused(network):
    net = network(SMALL)
    fields = {name: getattr(net, name) for name in (field.name for field in dataclasses.fields(net))}
    for asked in ({"efficiency": "latency"}, {"max_memory_bytes": 10**9}):
        check_search(spec_of(SMALL, **asked), net)
        with pytest.raises(InvalidSpec) as refusal:
            check_search(spec_of(SMALL, **asked), Undivided(**fields))
        assert refusal.value.path == ("space", "stages")
