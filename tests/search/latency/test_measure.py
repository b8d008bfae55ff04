import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.latency.measure import FEWEST, USUAL, Timing, in_turn, measure
from collegium.search.latency.parts import segments
from collegium.search.latency.workload import Workload
from collegium.search.networks.footprint import Footprint
from collegium.search.networks.segment import Repeated, Segment


def dense(inputs: int, outputs: int, parameters: int | None = None) -> Segment:
    size = inputs * outputs if parameters is None else parameters
    footprint = Footprint(size, kept=outputs, live=inputs + outputs, transient=outputs)
    return Segment.of("torch.nn:Linear", {"in_features": inputs, "out_features": outputs}, (inputs,), footprint)


def test_each_distinct_segment_is_measured_once(bench):
    one, other = dense(3, 4), dense(4, 3)
    timings = measure([one, other, one], Workload(), bench)
    assert set(timings.of) == {one, other}
    assert bench.built == [one, other]
    assert timings.of[one].seconds == pytest.approx(bench.seconds(one, Workload()))
    assert timings.reused == frozenset()


def test_segments_are_visited_in_turn(bench):
    chosen = [dense(2000, 1000 + index) for index in range(3)]
    in_turn(chosen, Workload(), bench)
    warm = 2 * len(chosen)
    assert bench.visits[warm:] == chosen * FEWEST
    assert bench.entered == 1


def test_a_second_measurement_measures_nothing(make_bench):
    stored = {}
    chosen = [dense(3, 4), dense(4, 3)]
    first = measure(chosen, Workload(), make_bench(), load=stored.get, store=stored.__setitem__)
    idle = make_bench()
    second = measure(chosen, Workload(), idle, load=stored.get, store=stored.__setitem__)
    assert idle.visits == []
    assert second.of == first.of
    assert second.reused == frozenset(chosen)


@pytest.mark.parametrize(
    ("machine", "workload"),
    [
        ("another machine", Workload()),
        ("a machine", Workload(threads=1)),
        ("a machine", Workload(batch_size=2)),
        ("a machine", Workload(precision="bf16")),
        ("a machine", Workload(channels_last=True)),
        ("a machine", Workload(mode="training", batch_size=2)),
    ],
)
def test_times_of_other_machines_threads_and_workloads_are_not_reused(make_bench, machine, workload):
    stored = {}
    measure([dense(3, 4)], Workload(), make_bench(), load=stored.get, store=stored.__setitem__)
    other = make_bench(machine)
    found = measure([dense(3, 4)], workload, other, load=stored.get, store=stored.__setitem__)
    assert found.reused == frozenset()
    assert other.visits


def test_the_optimizer_matters_in_training_alone(make_bench):
    for mode, reused in (("inference", 1), ("training", 0)):
        stored = {}
        for optimizer in ("sgd", "adam"):
            workload = Workload(mode=mode, batch_size=2, optimizer=optimizer)
            found = measure([dense(3, 4)], workload, make_bench(), load=stored.get, store=stored.__setitem__)
        assert len(found.reused) == reused


def test_a_noisy_segment_takes_more_rounds_and_ends(make_bench):
    quiet, noisy = make_bench(), make_bench(noise=(0.0, 0.5, -0.4, 0.9, 0.3))
    one = dense(20_000, 20_000)  # 0.4 s each
    assert in_turn([one], Workload(), quiet)[one].rounds == FEWEST
    assert in_turn([one], Workload(), noisy)[one].rounds == USUAL


def test_short_segments_are_called_several_times_for_each_visit(make_bench):
    counted = []

    class Counting(make_bench):
        def prepare(self, segment, workload):
            timer = super().prepare(segment, workload)

            def count(calls):
                counted.append(calls)
                return timer(calls)

            return count

    in_turn([dense(100, 100)], Workload(), Counting())  # 10 µs
    assert counted[:2] == [1, 1]
    assert set(counted[2:]) == {100}


def test_a_short_stall_does_not_move_the_time(make_bench):
    stalled = make_bench(noise=(0.0, 0.0, 0.0, 4.0, 0.0))
    one = dense(20_000, 20_000)
    timing = in_turn([one], Workload(), stalled)[one]
    assert timing.seconds == pytest.approx(stalled.seconds(one, Workload()))


def test_progress_runs_from_0_to_1_and_may_end_the_measurement(bench):
    seen = []
    measure([dense(3, 4), dense(4, 3)], Workload(), bench, report=lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen)
    assert 0 <= seen[0] <= seen[-1] <= 1

    class Stopped(Exception):
        pass

    def stop(fraction, message):
        raise Stopped

    with pytest.raises(Stopped):
        measure([dense(3, 4)], Workload(), bench, report=stop)


def test_segments_that_do_not_fit_together_are_built_in_groups(bench):
    large = [dense(3, width, parameters=bench.room // 10) for width in range(4, 10)]
    found = measure(large, Workload(), bench)
    assert bench.entered == 3
    assert set(found.of) == set(large)


@pytest.mark.parametrize("slower", [1.0, 2.5])
def test_times_of_a_busy_hour_are_scaled_by_those_of_an_anchor(make_bench, slower):
    quiet, busy = make_bench(), make_bench()
    plain = busy.seconds
    busy.seconds = lambda segment, workload: slower * plain(segment, workload)
    anchor = measure([dense(300, 400)], Workload(), quiet).of
    new = dense(500, 600)
    found = measure([new], Workload(), busy, anchor=anchor)
    assert found.of[new].seconds == pytest.approx(quiet.seconds(new, Workload()))
    assert set(found.of) == {new}
    assert set(busy.visits) == {new, *anchor}


def test_the_error_of_an_anchor_is_part_of_a_times_own(make_bench):
    anchor = measure([dense(300, 400)], Workload(), make_bench()).of
    noisy = make_bench(noise=(0.1, -0.1, 0.2, -0.2, 0.0))
    found = measure([dense(500, 600)], Workload(), noisy, anchor=anchor).of[dense(500, 600)]
    alone = measure([dense(500, 600)], Workload(), make_bench(noise=noisy.noise)).of[dense(500, 600)]
    assert found.standard_error / found.seconds > 1.3 * alone.standard_error / alone.seconds


def test_a_total_adds_times_and_squares_of_errors(bench):
    one, other = dense(3, 4), dense(4, 5)
    timings = measure([one, other], Workload(), bench)
    total = timings.total([Repeated(one, 3), Repeated(other, 1)])
    assert total.seconds == pytest.approx(3 * timings.of[one].seconds + timings.of[other].seconds)
    expected = math.hypot(3 * timings.of[one].standard_error, timings.of[other].standard_error)
    assert total.standard_error == pytest.approx(expected)
    with pytest.raises(KeyError):
        timings.total([Repeated(dense(9, 9), 1)])


def test_a_network_is_the_sum_of_its_parts(network, bench):
    net = network({"preset": "resnet50"})
    parts = segments(net, net.stage_groupings((64, 64), 1))
    timings = measure([part.segment for part in parts], Workload(), bench)
    assert timings.total(parts).seconds == pytest.approx(1e-9 * net.count("parameters", (64, 64), 1))


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40), st.floats(0.01, 100))
def test_a_timing_scales_with_its_times_and_is_one_of_their_medians(times, factor):
    one, scaled = Timing.of(times), Timing.of([factor * value for value in times])
    assert min(times) <= one.seconds <= max(times)
    assert scaled.seconds == pytest.approx(factor * one.seconds)
    assert scaled.standard_error == pytest.approx(factor * one.standard_error, rel=1e-6, abs=1e-12)
    assert one.rounds == len(times)
