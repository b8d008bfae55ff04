"""Images a second in training, for ResNet-50 and the ensembles of nearly its parameters: m members of n channels.

Synthetic images made on the device, so that no data set limits it. ``cudnn.benchmark`` is torch's own search for the
fastest convolutions, which collegium leaves off.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from majority import forward, residual

from accelerator.section import Bench
from accelerator.timing import gibibytes, median_seconds, peak_bytes
from accelerator.workloads import RESNET50, TINY_RESNET, Steps, Workload, images
from collegium.train.methods import create
from collegium.train.spec.recipes import Recipe

MEMBERS = ((1, 64), (12, 10), (15, 8), (32, 4))
"""(m, n): the baseline, the primal optimum and its neighbours."""


def run(bench: Bench) -> None:
    """A row for each ensemble."""
    device = torch.device(bench.device)
    for index, (multiplicity, width) in enumerate(MEMBERS):
        seconds = 0.0 if bench.tiny else bench.left() / (len(MEMBERS) - index) / 4
        bench.row(**measure(multiplicity, width, device, seconds, bench.tiny))
        if bench.on_gpu:
            torch.cuda.empty_cache()


def measure(multiplicity: int, width: int, device: torch.device, seconds: float, tiny: bool) -> dict[str, Any]:
    """Images a second, milliseconds a step, memory and parameters."""
    batch, side, baseline = (2, 32, TINY_RESNET) if tiny else (256, 224, RESNET50)
    recipe = Recipe(optimizer="sgd", learning_rate=0.1, batch_size=batch, precision="bf16", channels_last=True)
    build = partial(residual, baseline, multiplicity=multiplicity, width=width)
    workload = Workload(f"{multiplicity}×{width}d", build, images(side), forward, recipe)
    steps: list[Steps] = []

    def begin() -> None:
        steps.append(Steps(workload, create("vanilla"), device))
        for _ in range(3):
            steps[0]()

    memory = peak_bytes(begin, device)
    plain = median_seconds(steps[0], device, seconds)
    searched = with_cudnn_benchmark(steps[0], device, seconds)
    return {
        "ensemble": workload.title,
        "parameters": sum(parameter.numel() for parameter in build().parameters()),
        "batch": batch,
        "images/s": batch / plain,
        "images/s, cudnn.benchmark": batch / searched,
        "ms a step": 1e3 * plain,
        "GiB": gibibytes(memory),
    }


def with_cudnn_benchmark(step: Steps, device: torch.device, seconds: float) -> float:
    """Median seconds of a step whose convolutions were chosen by trial."""
    torch.backends.cudnn.benchmark = True
    try:
        step()
        return median_seconds(step, device, seconds)
    finally:
        torch.backends.cudnn.benchmark = False
