"""Answers by measured time and counted memory, held against every m × n that could have been an answer."""

from __future__ import annotations

import json

import pytest

from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.workload import Workload
from collegium.search.networks.build import validate_search
from collegium.search.parse import parse_spec
from collegium.search.result import SearchResult
from collegium.search.spec import SearchSpec

MLP = {"family": "mlp", "inputs": 64, "hidden": [100] * 4, "outputs": 10}
SMALL = {"family": "resnext", "layout": "cifar", "depth": 11, "base_width": 32}
EXACT = {"method": "exact"}


def spec_of(baseline, **fields) -> SearchSpec:
    baseline = {"preset": baseline} if isinstance(baseline, str) else baseline
    return parse_spec(SearchSpec, {"baseline": baseline, "estimator": EXACT, **fields})


def every(result: SearchResult):
    """(relative variance, widths, m) of every ensemble of the curve with up to 120 members."""
    base = result.baseline.variance
    for row in result.curve:
        for m in range(1, 121):
            yield row.variance / m / base, row.widths, m


def kept(answer) -> bool:
    """Whether an answer keeps the dual's constraint."""
    return answer.relative_variance <= (1.025 if answer.multiplicity > 1 else 1 + 1e-9)


def test_where_time_is_proportional_to_parameters_both_give_the_same_answers(make_bench):
    spec = spec_of(MLP, efficiency="latency")
    result = run(spec, bench=make_bench())
    network = validate_search(spec)
    own = result.baseline.parameters
    within = [one for one in every(result) if network.count("parameters", one[1], one[2]) <= own]
    assert result.primal.relative_variance <= 1.02 * min(within)[0]
    assert result.primal.parameters <= own
    cheap = [network.count("parameters", w, m) for r, w, m in every(result) if r <= (1.025 if m > 1 else 1)]
    assert kept(result.dual)
    assert result.dual.parameters <= 1.03 * min(cheap)
    assert result.dual.efficiency == pytest.approx(own / result.dual.parameters)
    assert result.measure == "latency"
    assert result.budget == pytest.approx(1e-6 * own)
    assert "less time" in result.outcome.message


@pytest.mark.parametrize("baseline", [MLP, SMALL])
def test_memory_is_a_hard_limit_of_both_answers_and_is_spent(make_bench, baseline):
    spec = spec_of(baseline, efficiency="memory", space={"max_width": 40})
    network, workload = validate_search(spec), Workload()
    result = run(spec)

    def memory(widths, m):
        return memory_bytes(network, network.stage_groupings(widths, m), workload)

    own = memory(network.baseline, network.multiplicity)
    assert result.primal.memory_bytes == memory(result.primal.widths, result.primal.multiplicity) <= own
    assert result.budget == own
    assert result.costs.machine is None
    assert all(row.latency_ms is None for row in result.costs.rows)
    most = own * 9 // 10
    limited = run(spec_of(baseline, efficiency="memory", max_memory_bytes=most, space={"max_width": 40}))
    assert limited.primal.memory_bytes <= most
    worst = {row.widths: row.dual_multiplicity_real for row in limited.curve}
    best = min(real / m for widths, real in worst.items() for m in range(1, 200) if memory(widths, m) <= most)
    assert limited.primal.relative_variance <= 1.05 * best
    pick = limited.recommended
    assert pick is None or pick.memory_bytes == memory(pick.widths, pick.multiplicity) <= most
    assert pick is None or pick.relative_variance <= min(1, 1.025 * limited.primal.relative_variance * (1 + 1e-9))
    assert (limited.dual is None) == (limited.primal.relative_variance > 1.025)
    assert limited.dual is None or limited.dual.memory_bytes <= most


def test_limits_of_time_bind_both_answers(make_bench):
    free = run(spec_of(MLP, workload={}), bench=make_bench())
    most = 0.8 * free.costs.baseline.latency_ms
    bound = run(spec_of(MLP, max_latency_ms=most), bench=make_bench())
    assert free.primal.latency_ms > most
    assert bound.primal.latency_ms <= most
    assert bound.dual.latency_ms <= most
    assert bound.primal.relative_variance < bound.dual.relative_variance
    assert bound.measure == "parameters"


def test_a_limit_that_nothing_meets_is_an_outcome_that_names_the_least(make_bench):
    result = run(spec_of(MLP, efficiency="latency", max_latency_ms=1e-9), bench=make_bench())
    assert result.primal is None
    assert result.dual is None
    assert "infeasible_budget" in {one.kind for one in (result.outcome, *result.notes)}
    said = next(one for one in (result.outcome, *result.notes) if one.kind == "infeasible_budget")
    least = min(row.latency_ms for row in result.costs.rows[1:])
    assert f"{least:.3g} ms" in said.message


def test_a_workload_alone_leaves_the_answers_and_measures_them(make_bench):
    plain = run(spec_of(MLP))
    measured = run(spec_of(MLP, workload={"batch_size": 8}), bench=make_bench())
    for name in ("primal", "dual"):
        own, other = getattr(measured, name), getattr(plain, name)
        assert (own.widths, own.multiplicity) == (other.widths, other.multiplicity)
        assert own.latency_ms == pytest.approx(8e-6 * own.parameters)
    assert measured.outcome == plain.outcome
    assert plain.costs is None


class SlowOdd:
    """A time to which widths that are no multiple of 8 add half."""

    def __init__(self, bench):
        self.plain = bench.seconds

    def __call__(self, segment, workload):
        described = json.loads(segment.arguments)
        odd = any(width % 8 for width in described.get("hidden", [8]))
        return self.plain(segment, workload) * (1.5 if odd else 1.0)


def test_the_recommended_ensemble_is_the_fastest_measured_one_near_the_primal(make_bench):
    bench = make_bench()
    bench.seconds = SlowOdd(bench)
    result = run(spec_of(MLP, workload={}, tolerance=0.1), bench=bench)
    pick = result.recommended
    assert pick == result.near_optimal.recommended.primal
    assert pick.width % 8 == 0
    near = [
        row
        for row in result.costs.rows[1:]
        if row.relative_variance <= 1.1 * result.primal.relative_variance
        and row.multiplicity > 1
        and row.parameters <= 1.025 * result.baseline.parameters
    ]
    assert pick.latency_ms == min(row.latency_ms for row in near)
    assert pick.relative_variance < 1
    assert f"the fastest of {len(near)} measured" in result.near_optimal.recommended.reason
    named = {"primal": result.primal.label, "recommended": pick.label}
    assert named["primal"] != named["recommended"]


def test_a_recommendation_that_is_alone_near_the_primal_is_called_so(make_bench):
    result = run(spec_of(MLP, efficiency="latency", tolerance=1e-6), bench=make_bench())
    reason = result.near_optimal.recommended.reason
    assert reason.startswith("the primal itself, at ")
    assert "no other measured ensemble" in reason
    assert result.recommended.label == result.primal.label


def test_fronts_hold_what_nothing_beats_in_both(make_bench):
    rows = run(spec_of(SMALL, workload={}), bench=make_bench()).costs.rows
    for cost, value in (
        ("latency", lambda row: row.latency_ms),
        ("parameters", lambda row: row.parameters),
        ("memory", lambda row: row.memory_bytes),
    ):
        for row in rows:
            beaten = any(
                other.relative_variance <= row.relative_variance
                and value(other) <= value(row)
                and (other.relative_variance, value(other)) != (row.relative_variance, value(row))
                for other in rows
            )
            assert (cost in row.fronts) == (not beaten)


def test_a_second_search_measures_nothing_and_says_so(make_bench):
    stored = {}
    spec = spec_of(SMALL, efficiency="latency")
    first = run(spec, bench=make_bench(), load=stored.get, store=stored.__setitem__)
    idle = make_bench()
    second = run(spec, bench=idle, load=stored.get, store=stored.__setitem__)
    assert idle.visits == []
    assert first.costs.measured == second.costs.reused > 0
    assert (first.costs.reused, second.costs.measured) == (0, 0)
    assert second.costs.rows == first.costs.rows
    assert second.costs.checks == first.costs.checks
    assert (second.primal, second.dual, second.recommended) == (first.primal, first.dual, first.recommended)


def test_sums_over_parts_are_held_against_whole_networks(make_bench):
    result = run(spec_of(SMALL, workload={}), bench=make_bench())
    assert result.costs.checks[0].multiplicity == 1
    latencies = {(row.widths, row.multiplicity): row.latency_ms for row in result.costs.rows}
    for check in result.costs.checks:
        assert check.deviation == pytest.approx(0, abs=1e-9)
        assert check.sum_ms == pytest.approx(latencies[check.widths, check.multiplicity])
        assert check.sum_ms == pytest.approx(check.whole_ms)
    assert run(spec_of(MLP, workload={}), bench=make_bench()).costs.checks == ()  # measured whole


def test_parts_that_take_less_time_than_their_network_are_a_note(make_bench):
    bench = make_bench()
    plain = bench.seconds
    bench.seconds = lambda segment, workload: plain(segment, workload) * (2 if "ResNet" in segment.module else 1)
    result = run(spec_of(SMALL, workload={}), bench=bench)
    assert result.costs.checks[0].deviation == pytest.approx(-0.5)
    assert "times_disagree" in {note.kind for note in result.notes}


def test_results_with_costs_survive_json(make_bench):
    result = run(spec_of(SMALL, efficiency="latency"), bench=make_bench())
    assert SearchResult.model_validate_json(result.model_dump_json()) == result


def test_progress_never_runs_backwards(make_bench):
    seen = []
    run(
        spec_of(SMALL, efficiency="latency"), bench=make_bench(), report=lambda fraction, message: seen.append(fraction)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_nothing_is_measured_where_grouping_changes_nothing(make_bench):
    bench = make_bench()
    result = run(spec_of("resnet18", efficiency="latency"), bench=bench)
    assert result.outcome.kind == "nothing_to_gain"
    assert bench.visits == []


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"efficiency": "latency", "budget": 10}, ("budget",)),
        ({"efficiency": "memory", "budget": 10}, ("budget",)),
        ({"workload": {"image_size": 8}}, ("workload", "image_size")),
        ({"workload": {"channels_last": True}}, ("workload", "channels_last")),
        ({"max_latency_ms": 0}, ("max_latency_ms",)),
        ({"max_memory_bytes": 0}, ("max_memory_bytes",)),
        ({"max_latency_ms": True}, ("max_latency_ms",)),
    ],
)
def test_wrong_fields_are_refused_with_their_path(fields, path):
    with pytest.raises(InvalidSpec) as refusal:
        validate_search(spec_of(MLP, **fields))
    assert refusal.value.path == path


def test_batches_that_no_machine_holds_are_refused():
    with pytest.raises(InvalidSpec) as refusal:
        validate_search(spec_of("resnet50", workload={"mode": "training", "batch_size": 60_000}))
    assert refusal.value.path == ("workload", "batch_size")


def test_the_answers_that_are_verified_are_those_that_memory_chose():
    spec = SearchSpec.model_validate(
        {"baseline": {"family": "mlp", "inputs": 32, "hidden": [40] * 3}, "efficiency": "memory", "verify": True}
    )
    result = run(spec)
    for answer, measured in ((result.primal, result.verification.primal), (result.dual, result.verification.dual)):
        assert (measured.widths, measured.multiplicity) == (answer.widths, answer.multiplicity)
        assert measured.predicted == answer.variance
    assert result.verification.agrees
