"""A training step of majority kernels beside one of plain training, in turn on one device.

``obvious`` is what one would write first (``benchmarks/majority.py``): exponentials drawn, normalised, a weighted sum,
autograd. ``not fused`` leaves the copies to torch's own optimizer; ``without Triton`` is majority kernels as a machine
without a C compiler runs them. Memory is the most that the first steps of each take. Fully connected networks train in
float32. For the first of them a last row a contender says where a step's time goes: what the device was launched, how
long it computed, and how long the host took.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from majority import EXPANSION, Obvious, first_tokens, forward, perceptron, residual, t5_small
from torch import nn

from accelerator.section import Bench
from accelerator.timing import gibibytes, peak_bytes, seconds_of
from accelerator.workloads import RESNET50, TINY_RESNET, Batch, Steps, Workload, images
from collegium.train.majority.generators import philox
from collegium.train.methods import create
from collegium.train.methods.majority import Majority, MajorityOptions
from collegium.train.spec.recipes import Recipe

PROFILED = "fully connected [400, 200, 100]"
TURN_S = 0.3
"""Steps of one contender are taken for so long before it is another's turn."""
FIRST_STEPS = 3
PROFILED_STEPS = 5


class WithoutTriton(Majority):
    """Majority kernels whose uniforms come from torch's generator."""

    def step(self, *arguments: Any, **named: Any) -> Any:
        with mock.patch.object(philox, "runs_triton", return_value=False):
            return super().step(*arguments, **named)


class Unfused(Majority):
    """Majority kernels whose copies torch's own optimizer updates."""

    def optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return optimizer


def run(bench: Bench) -> None:
    """A row for each network."""
    device = torch.device(bench.device)
    kept: dict[str, Steps] = {}
    found = [tiny(workload) for workload in workloads()] if bench.tiny else workloads()
    for index, workload in enumerate(found):
        steps, row = measure(workload, device, bench.left() / (len(found) - index), bench.tiny)
        bench.row(**row)
        kept |= steps if workload.title == PROFILED else {}
        del steps
        if bench.on_gpu:
            torch.cuda.empty_cache()
    for name, step in kept.items():
        bench.row(network=PROFILED, contender=name, **profile(step, device))


def workloads() -> list[Workload]:
    """ResNet-50, T5-small and two fully connected networks."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.1}
    return [
        Workload("ResNet-50", partial(residual, RESNET50), images(224), forward,
                 Recipe(**sgd, batch_size=256, precision="bf16", channels_last=True)),
        Workload("T5-small, 128 → 4 tokens", t5_small, tokens, first_tokens,
                 Recipe(optimizer="adamw", batch_size=256, precision="bf16")),
        Workload("fully connected [400, 200, 100]", partial(perceptron, [400, 200, 100]), features, forward,
                 Recipe(batch_size=256)),
        Workload("fully connected [4096, 4096]", partial(perceptron, [4096, 4096]), features, forward,
                 Recipe(batch_size=1024)),
    ]  # fmt: skip


def tiny(workload: Workload) -> Workload:
    """The same kind of network, small enough for a processor."""
    small = {
        "ResNet-50": {"model": partial(residual, TINY_RESNET), "batch": images(32)},
        "T5-small, 128 → 4 tokens": {
            "model": partial(t5_small, d_model=32, d_kv=8, d_ff=64, num_layers=1, vocab_size=128),
            "batch": partial(tokens, vocabulary=128),
        },
        "fully connected [4096, 4096]": {"model": partial(perceptron, [64, 64])},
    }
    recipe = workload.recipe.model_copy(update={"batch_size": 2})
    return replace(workload, recipe=recipe, **small.get(workload.title, {}))


def tokens(size: int, device: torch.device, vocabulary: int = 32_128) -> Batch:
    """Random words in, four random words out."""
    x, y = (torch.randint(1, vocabulary, (size, length), device=device) for length in (128, 4))
    return x, y


def features(size: int, device: torch.device) -> Batch:
    """Random vectors and labels."""
    return torch.randn(size, 3072, device=device), torch.randint(10, (size,), device=device)


def measure(
    workload: Workload, device: torch.device, seconds: float, once: bool
) -> tuple[dict[str, Steps], dict[str, Any]]:
    """Milliseconds a step of each contender, what they cost over plain training, and their memory."""
    methods = {
        "plain": create("vanilla"),
        "majority": create("majority", copies=EXPANSION),
        "not fused": Unfused(MajorityOptions(copies=EXPANSION)),
        "obvious": Obvious(EXPANSION),
    }
    if workload.title.startswith("fully connected"):
        methods["without Triton"] = WithoutTriton(MajorityOptions(copies=EXPANSION))
    steps: dict[str, Steps] = {}
    memory: dict[str, int | None] = {}
    for name, method in methods.items():

        def begin(name: str = name, method: Any = method) -> None:
            steps[name] = Steps(workload, method, device)
            for _ in range(FIRST_STEPS):
                steps[name]()

        memory[name] = peak_bytes(begin, device)
    medians = in_turn(steps, device, 0.0 if once else seconds / 3)
    recipe = workload.recipe
    row: dict[str, Any] = {"network": workload.title, "precision": recipe.precision, "batch": recipe.batch_size}
    row |= {f"{name} ms": 1e3 * median for name, median in medians.items()}
    row |= {f"{name} %": 100 * (medians[name] / medians["plain"] - 1) for name in medians if name != "plain"}
    row |= {f"{name} GiB": gibibytes(taken) for name, taken in memory.items()}
    return steps, row | {"Triton": philox.runs_triton(device)}


def profile(step: Steps, device: torch.device) -> dict[str, Any]:
    """Launches and device milliseconds of one step, its host milliseconds, and the host's dearest operators."""
    host = statistics.median(seconds_of(step, device) for _ in range(PROFILED_STEPS))
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        seconds_of(lambda: [step() for _ in range(PROFILED_STEPS)], device)
    averages = recorded.key_averages()
    kernels = [event for event in averages if event.device_type == torch.autograd.DeviceType.CUDA]
    operators = sorted(
        (event for event in averages if event.device_type == torch.autograd.DeviceType.CPU),
        key=lambda event: -event.self_cpu_time_total,
    )
    return {
        "ms a step": 1e3 * host,
        "launches": sum(event.count for event in kernels) / PROFILED_STEPS,
        "device ms": sum(event.self_device_time_total for event in kernels) / 1e3 / PROFILED_STEPS,
        "operators": sum(event.count for event in operators) / PROFILED_STEPS,
        "most host time": ", ".join(
            f"{event.key} {event.self_cpu_time_total / 1e3 / PROFILED_STEPS:.2f} ms" for event in operators[:5]
        ),
    }


def in_turn(steps: dict[str, Steps], device: torch.device, seconds: float) -> dict[str, float]:
    """Median seconds a step of each, over turns that take ``seconds`` in all and at least three."""
    once = {name: min(seconds_of(step, device) for _ in range(2)) for name, step in steps.items()}
    counts = {name: max(1, round(min(TURN_S, seconds) / time)) for name, time in once.items()}
    turns = max(3, round(seconds / sum(counts[name] * once[name] for name in steps)))
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            taken = seconds_of(lambda step=step, name=name: [step() for _ in range(counts[name])], device)
            found[name].append(taken / counts[name])
    return {name: statistics.median(times) for name, times in found.items()}
