"""Counted memory beside what torch's allocator gives out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.parts import whole
from collegium.search.latency.torch_bench import optimizer_of
from collegium.search.latency.workload import Workload

SMALL = {"family": "resnext", "layout": "cifar", "blocks": [2, 2, 1], "base_width": 16}
NETWORKS = [
    (SMALL, (16, 16), 1),
    (SMALL, (5, 5), 6),
    (SMALL | {"layout": "imagenet", "blocks": [1, 1, 1, 1]}, (16, 16), 2),
    (SMALL | {"block": "basic"}, (32,), 1),
    ({"preset": "mlp-mnist-6x200"}, (200,) * 5, 1),
    ({"preset": "mlp-digits-6x100"}, (17,) * 5, 20),
    ({"family": "mlp", "inputs": 64, "hidden": [200] * 4, "outputs": 10, "activation": "gelu"}, (40,) * 4, 9),
    ({"family": "mlp", "inputs": 64, "hidden": [200] * 4, "outputs": 10, "activation": "tanh"}, (200,) * 4, 1),
]
WORKLOADS = [
    Workload(batch_size=16),
    Workload(mode="training", batch_size=8),
    Workload(mode="training", batch_size=8, optimizer="adam"),
    Workload(mode="training", batch_size=8, precision="bf16"),
]


def bytes_of(tensors) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def most_allocated(call) -> int:
    """The most bytes that the allocator had given out at a time during ``call``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def allocated(net, widths, multiplicity, workload) -> int:
    """Weights, buffers, optimizer state and inputs, and the most that a step allocates."""
    module = whole(net, net.stage_groupings(widths, multiplicity), workload.image_size).build().train(workload.training)
    x = torch.randn(workload.batch_size, *net.sample_shape(workload.image_size))
    held = bytes_of([x, *module.parameters(), *module.buffers()])
    if not workload.training:
        with torch.inference_mode():
            return held + most_allocated(lambda: module(x))
    optimizer = optimizer_of(module, workload)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=workload.precision == "bf16"):
            logits = module(x)
        logits.backward(torch.ones_like(logits))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return held + bytes_of(states) + most_allocated(step)


@pytest.mark.filterwarnings("ignore")  # of the profiler
@pytest.mark.parametrize(("baseline", "widths", "multiplicity"), NETWORKS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=Workload.describe)
def test_counted_memory_is_what_the_allocator_gives_out(network, baseline, widths, multiplicity, workload):
    net = network(baseline)
    if net.any_extent:
        # Large maps: libraries rearrange the weights of one layer at a time, which is not counted.
        workload = workload.model_copy(update={"image_size": 64 if net.layout.stem.pooled else 32})
    measured = allocated(net, widths, multiplicity, workload)
    assert memory_bytes(net, net.stage_groupings(widths, multiplicity), workload) == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize(("baseline", "widths", "multiplicity"), NETWORKS)
def test_kept_features_are_the_tensors_saved_for_the_backward_pass(network, baseline, widths, multiplicity):
    net, batch = network(baseline), 8
    module = whole(net, net.stage_groupings(widths, multiplicity)).build()
    own = {parameter.untyped_storage().data_ptr() for parameter in [*module.parameters(), *module.buffers()]}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = module(torch.randn(batch, *net.sample_shape()))
    assert logits.grad_fn is not None
    measured = sum(size for place, (size, _) in saved.items() if place not in own)
    indices = sum(footprint.index_bytes for footprint in net.footprints(net.stage_groupings(widths, multiplicity)))
    counted = 4 * net.features_per_sample(widths, multiplicity) + indices
    assert batch * counted == pytest.approx(measured, rel=0.03)


def test_memory_grows_with_everything_that_takes_memory(network):
    net = network({"preset": "resnet50"})

    def of(widths=(16, 16), multiplicity=4, **workload):
        return memory_bytes(net, net.stage_groupings(widths, multiplicity), Workload(**workload))

    least = of()
    assert least < of(batch_size=2) < of(batch_size=2, mode="training")
    assert of(batch_size=2, mode="training") < of(batch_size=2, mode="training", optimizer="adam")
    assert least < of(multiplicity=5)
    assert least < of(widths=(17, 17))
    assert of(image_size=112) < least
    assert of(precision="bf16") == math.ceil(least / 2)
