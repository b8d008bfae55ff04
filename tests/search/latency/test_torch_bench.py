import pytest
import torch

from collegium.search.latency.measure import in_turn
from collegium.search.latency.parts import segments, whole
from collegium.search.latency.torch_bench import TorchBench
from collegium.search.latency.workload import Workload

NARROW = {"family": "resnext", "layout": "cifar", "blocks": [1, 1], "base_width": 8}


def test_the_machine_is_named_with_the_software():
    named = TorchBench().machine
    assert named.endswith(f"torch {torch.__version__}")
    assert torch.backends.cpu.get_cpu_capability() in named


@pytest.mark.parametrize(
    "workload",
    [
        Workload(threads=1),
        Workload(batch_size=2, precision="bf16", channels_last=True),
        Workload(mode="training", batch_size=2, threads=1),
        Workload(mode="training", batch_size=2, precision="bf16", optimizer="adam", channels_last=True),
        Workload(mode="training", batch_size=2, precision="tf32", optimizer="adamw"),
    ],
    ids=Workload.describe,
)
def test_every_kind_of_workload_can_be_timed(network, workload):
    net, bench = network(NARROW), TorchBench()
    with bench.settings(workload):
        for part in segments(net, net.stage_groupings((3, 3), 2), 16):
            assert bench.prepare(part.segment, workload)(1) > 0


def test_settings_and_random_numbers_are_as_before(network):
    net, bench, workload = network(NARROW), TorchBench(), Workload(threads=1, precision="tf32")
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.random.get_rng_state()
    with bench.settings(workload):
        assert torch.get_num_threads() == 1
        bench.prepare(whole(net, net.stage_groupings((3, 3), 2)), workload)(1)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before[:2]
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_twice_the_work_takes_longer(network):
    net = network({"preset": "mlp-mnist-6x500"})
    small, large = whole(net, net.stage_groupings((200,) * 5, 1)), whole(net, net.stage_groupings((800,) * 5, 1))
    timings = in_turn([small, large], Workload(batch_size=64, threads=1), TorchBench())
    assert timings[large].seconds > 2 * timings[small].seconds


@pytest.mark.slow
def test_parts_take_as_long_as_the_whole_network(network):
    net, workload = network({"preset": "resnet50"}), Workload(threads=1, image_size=160)
    for widths, multiplicity in (((64, 64), 1), ((10, 10), 12)):
        parts = segments(net, net.stage_groupings(widths, multiplicity), 160)
        own = whole(net, net.stage_groupings(widths, multiplicity), 160)
        timings = in_turn([own, *dict.fromkeys(part.segment for part in parts)], workload, TorchBench())
        total = sum(part.count * timings[part.segment].seconds for part in parts)
        assert total == pytest.approx(timings[own].seconds, rel=0.15)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_a_gpu_is_timed_by_its_events(network):
    net, bench, workload = network(NARROW), TorchBench("cuda"), Workload(mode="training", batch_size=4)
    assert torch.cuda.get_device_name() in bench.machine
    with bench.settings(workload):
        assert bench.prepare(whole(net, net.stage_groupings((3, 3), 2)), workload)(2) > 0
