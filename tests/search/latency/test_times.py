import pytest

from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload

MLP = {"family": "mlp", "inputs": 64, "hidden": [100] * 4, "outputs": 10}
BASE = ((100, 100, 100, 100), 1)


def sharing(make_bench, factor):
    """A bench on which several threads take ``factor`` times as long as one."""
    bench = make_bench()
    plain = bench.seconds
    bench.seconds = lambda segment, workload: plain(segment, workload) * (1 if workload.threads == 1 else factor)
    return bench


@pytest.mark.parametrize(("factor", "threads"), [(0.6, 2), (3.0, 1)])
def test_one_thread_is_used_where_it_is_faster(network, make_bench, factor, threads):
    bench = sharing(make_bench, factor)
    times = Times(network(MLP), Workload(), bench).with_threads_that_pay(BASE)
    assert bench.threads(times.workload) == threads
    fastest = min(1.0, factor) * bench.threads(Workload(threads=1)) * 1e-9 * network(MLP).count("parameters", *BASE)
    assert times.of([BASE])[0].seconds == pytest.approx(fastest)


def test_threads_that_were_given_are_kept(network, make_bench):
    times = Times(network(MLP), Workload(threads=2), sharing(make_bench, 3.0))
    assert times.with_threads_that_pay(BASE) is times


def test_a_device_without_threads_has_none_to_choose(network, make_bench):
    bench = sharing(make_bench, 3.0)
    bench.threaded = False
    times = Times(network(MLP), Workload(), bench)
    assert times.with_threads_that_pay(BASE) is times
    assert bench.visits == []


def test_the_choice_is_read_back_with_the_times(network, make_bench):
    stored = {}
    for bench, visited in ((sharing(make_bench, 3.0), True), (make_bench(), False)):
        times = Times(network(MLP), Workload(), bench, stored.get, stored.__setitem__).with_threads_that_pay(BASE)
        assert bench.threads(times.workload) == 1
        assert bool(bench.visits) == visited
