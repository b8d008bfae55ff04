"""A training step of majority kernels beside one of plain training, in turn on one device.

``obvious`` is what one would write first (``benchmarks/majority.py``): exponentials drawn, normalised, a weighted sum,
autograd. Memory is the most that the first steps of each take. Fully connected networks train in float32.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from majority import EXPANSION, Obvious, first_tokens, forward, perceptron, residual, t5_small

from accelerator.section import Bench
from accelerator.timing import gibibytes, peak_bytes, seconds_of
from accelerator.workloads import RESNET50, TINY_RESNET, Batch, Steps, Workload, images
from collegium.train.majority import elementwise
from collegium.train.methods import create
from collegium.train.spec.recipes import Recipe

TURN_S = 0.3
"""Steps of one contender are taken for so long before it is another's turn."""
FIRST_STEPS = 3


def run(bench: Bench) -> None:
    """A row for each network."""
    device = torch.device(bench.device)
    found = [tiny(workload) for workload in workloads()] if bench.tiny else workloads()
    for index, workload in enumerate(found):
        bench.row(**measure(workload, device, bench.left() / (len(found) - index), bench.tiny))
        if bench.on_gpu:
            torch.cuda.empty_cache()


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


def measure(workload: Workload, device: torch.device, seconds: float, once: bool) -> dict[str, Any]:
    """Milliseconds a step of each contender, what they cost over plain training, and their memory."""
    methods = {
        "plain": create("vanilla"),
        "majority": create("majority", copies=EXPANSION),
        "obvious": Obvious(EXPANSION),
    }
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
    row |= {f"{name} %": 100 * (medians[name] / medians["plain"] - 1) for name in ("majority", "obvious")}
    row |= {f"{name} GiB": gibibytes(taken) for name, taken in memory.items()}
    return row | {"draws compiled": elementwise.enabled(device)}


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
