import math

import pytest

from collegium.search.engine import run
from collegium.search.latency.exploration import MOST_SECONDS, Exploration
from collegium.search.latency.limits import CostLimit
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.build import build_network
from collegium.search.optimize.problem import build_problem
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec
from collegium.search.text import grouped

MLP = {"family": "mlp", "inputs": 64, "hidden": [100] * 4, "outputs": 10}


@pytest.fixture(scope="module")
def solved():
    problem = build_problem(parse_spec(SearchSpec, {"baseline": MLP, "estimator": {"method": "exact"}}))
    return problem.solve(problem.members, problem.exact)


def explore(solved, limits, bench=None):
    network = solved.constraints.network
    times = None if bench is None else Times(network, Workload(), bench)
    exploration = Exploration(network, solved, Workload(), tuple(limits), times)
    exploration.measure([])
    exploration.run(0.025, [])
    return exploration


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_the_largest_m_within_a_limit_of_time_is_measured_in_the_best_widths(solved, make_bench, share):
    network = solved.constraints.network
    own = 1e-6 * network.count("parameters", network.baseline, 1)
    exploration = explore(solved, [CostLimit("latency", share * own)], make_bench())
    best = exploration.best()
    fixed, each = network.affine("parameters", best.widths)
    assert best.multiplicity == math.floor((share * own * 1e6 - fixed) / each)
    values = [
        solved.variances.worst[at] / math.floor((share * own * 1e6) / network.count("parameters", w, 1))
        for at, w in enumerate(solved.widths)
        if network.count("parameters", w, 1) <= share * own * 1e6
    ]
    assert best.relative <= 1.02 * min(values)


@pytest.mark.parametrize("seconds", [1e-3, 1.0, 4.0, 40.0])
def test_a_device_that_takes_long_to_build_what_is_timed_builds_less(solved, make_bench, seconds):
    """A search for batches of 64 on a GPU did not end: whatever it takes to have a shape timed, it is bounded."""

    class Slow(make_bench):
        now = 0.0

        def prepare(self, segment, workload):
            self.now += seconds
            return super().prepare(segment, workload)

    bench = Slow()
    network = solved.constraints.network
    times = Times(network, Workload(threads=1), bench, clock=lambda: bench.now)
    own = 1e-6 * network.count("parameters", network.baseline, 1)
    exploration = Exploration(network, solved, Workload(), (CostLimit("latency", own),), times)
    exploration.measure([])
    answers = [(solved.primal_optimum, 3), (solved.dual_optimum, 2)]
    exploration.run(0.025, answers)
    assert all((solved.widths[at], m) in exploration.rows for at, m in answers)
    # of a network that is one segment, each measurement builds the baseline again
    assert bench.now <= max(2 * MOST_SECONDS, 5 * seconds)
    if seconds < 1e-2:
        assert len(exploration.rows) > 40
        assert bench.now < 1


@pytest.mark.parametrize("efficiency", ["memory", "parameters"])
@pytest.mark.parametrize("width", [1, 2, 5, 20, 60])
def test_whatever_one_member_fits_a_limit_of_memory_is_found(solved, efficiency, width):
    """Once none of the widths that were considered fitted, and nothing was found."""
    network = solved.constraints.network
    most = memory_bytes(network, network.stage_groupings((width,) * 4, 1), Workload())
    asked = {"baseline": MLP, "estimator": {"method": "exact"}, "efficiency": efficiency}
    result = run(parse_spec(SearchSpec, asked | {"max_memory_bytes": most}))
    assert result.primal.memory_bytes <= most
    every = [(at, m) for at in range(len(solved.widths)) for m in range(1, 60)]
    best = min(
        float(solved.variances.worst[at]) / m
        for at, m in every
        if network.count("parameters", solved.widths[at], m) <= network.count("parameters", network.baseline, 1)
        and memory_bytes(network, network.stage_groupings(solved.widths[at], m), Workload()) <= most
    )
    assert result.primal.relative_variance <= 1.05 * best


def test_the_least_memory_is_named_where_nothing_fits(solved):
    network = solved.constraints.network
    least = memory_bytes(network, network.stage_groupings((1,) * 4, 1), Workload())
    asked = {"baseline": MLP, "estimator": {"method": "exact"}, "efficiency": "memory"}
    result = run(parse_spec(SearchSpec, asked | {"max_memory_bytes": least - 1}))
    found = next(one for one in (result.outcome, *result.notes) if one.kind == "infeasible_budget")
    assert found.message.count("max_memory_bytes") == 1
    assert "by 1×1" in found.message
    assert found.remedy.startswith(f"Raise max_memory_bytes to at least {grouped(least)}")
    assert run(parse_spec(SearchSpec, asked | {"max_memory_bytes": least})).primal is not None


def test_times_that_jump_still_end_within_the_limit(solved, make_bench):
    bench = make_bench()
    plain = bench.seconds
    bench.seconds = lambda segment, workload: plain(segment, workload) * (1.7 if segment.parameters % 3 else 1.0)
    network = solved.constraints.network
    most = 1e-6 * network.count("parameters", network.baseline, 1)
    exploration = explore(solved, [CostLimit("latency", most)], bench)
    assert exploration.best().costs["latency"] <= most
    assert len(exploration.rows) < 120


def test_the_largest_m_in_exact_costs_is_that_of_a_linear_search(solved):
    limits = [CostLimit("memory", 400_000), CostLimit("parameters", 60_000)]
    exploration = explore(solved, limits)
    for at in range(0, len(solved.widths), 7):
        fits = [m for m in range(1, 900) if exploration._fits(at, m, limits)]
        assert exploration._largest(at, limits) == (max(fits) if fits else None)


def test_no_more_members_are_measured_than_the_space_allows(make_bench):
    spec = {
        "baseline": MLP,
        "estimator": {"method": "exact"},
        "space": {"max_multiplicity": 3},
        "efficiency": "latency",
    }
    result = run(parse_spec(SearchSpec, spec), bench=make_bench())
    assert all(row.multiplicity <= 3 for row in result.costs.rows)


def test_the_baseline_is_the_first_row(solved):
    exploration = explore(solved, [CostLimit("memory", 1e9)])
    network = build_network(parse_spec(SearchSpec, {"baseline": MLP}).baseline)
    first = next(iter(exploration.rows.values()))
    assert (first.widths, first.multiplicity, first.relative) == (network.baseline, 1, 1.0)


@pytest.mark.parametrize(("batch", "most"), [(1, 18), (10_000, 11), (65_536, 4)])
def test_networks_that_take_long_are_explored_in_fewer_widths(solved, make_bench, batch, most):
    network = solved.constraints.network
    workload = Workload(batch_size=batch)
    own = 1e-6 * batch * network.count("parameters", network.baseline, 1)
    times = Times(network, workload, make_bench())
    exploration = Exploration(network, solved, workload, (CostLimit("latency", own),), times)
    exploration.measure([])
    exploration.run(0.025, [])
    widths = {row.widths for row in exploration.rows.values() if row.index is not None}
    assert len(widths) <= most
    assert exploration.best().relative < 0.6
