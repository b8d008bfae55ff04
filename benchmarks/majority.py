"""One training step of majority kernels beside plain training, e = 3, fused Adam, batch 256 where no other is named.

    python benchmarks/majority.py [--quick] [--only CASE …] [--threads N] [--clock cpu] [--samples N]

Every contender takes a few steps in turn, over and over, so that all see the same machine; the figures are medians of
wall-clock time and ratios of those medians, without the first step of a turn, which finds the caches as another
contender left them. Contenders: plain training; majority kernels as the training loop runs them (p recomputed from a
key, gradient of the copies fused with their update in one pass of C code); the same operator by operator, as where
there is no C compiler; both of plain training and majority kernels with passes that ``torch.compile`` has compiled,
whose ratio is that of these two; a floor; majority kernels with torch's own optimizer untouched, as after ``expand``
alone; and the obvious implementation (exponentials drawn with ``exponential_``, normalised, a weighted sum, autograd).
Heavy cases leave out all but the first two and the floor.

The floor is plain training whose optimizer step is replaced, for the kernels, by reading and writing as many bytes as e
copies, their two moments and the mixed weight have, once and in place, computing nothing (a multiplication by one).
That traffic is there whatever the batch, so its share falls as a layer uses each weight more often: once a sample in a
fully connected layer, at every position in a convolution, at every token in a transformer.

The last row is whole trainings, as the service runs them: images are read, preprocessed and augmented, the network is
evaluated at the end of each epoch, copies are collapsed. The images are noise of CIFAR-10's shape and format.

``--clock cpu`` counts the processor time of one thread in the place of wall-clock time: for machines that others use.
``--samples N`` takes batches of N samples, with which the large networks take a second a step; what majority kernels
add to a step, printed below each row, does not depend on the batch. ``--memory`` prints peaks of memory in the place
of times (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from collegium.train.engine import run
from collegium.train.majority.native import passes
from collegium.train.majority.targets.choice import kernel_targets
from collegium.train.methods import create
from collegium.train.methods.majority import Majority, MajorityOptions
from collegium.train.methods.method import Method, Vanilla
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import group_network
from collegium.train.spec.architecture import BaselineArchitecture
from collegium.train.spec.training import TrainingSpec

EXPANSION = 3
Batch = tuple[Tensor, Tensor]
Logits = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Contender:
    method: Method
    compiles: bool = False
    native: bool = True  # whether updates are passes of C code

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Context of its steps."""
        found = passes._library
        passes._library = found if self.native else lambda: None
        try:
            yield
        finally:
            passes._library = found


@dataclass(frozen=True)
class Case:
    title: str
    model: Callable[[], nn.Module]
    batches: Callable[[], list[Batch]]
    logits: Logits
    turns: int
    target: float
    heavy: bool = False


class PlainOptimizer(Majority):
    """Majority kernels, but for the optimizer."""

    def optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return optimizer


class Floor(Vanilla):
    """Plain training, but for the traffic of the copies and their state in the place of the kernels' update."""

    def optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        kernels = list({id(p): p for targets in kernel_targets(model) for p in [getattr(*targets[0])]}.values())
        held = {id(kernel) for kernel in kernels}
        group = optimizer.param_groups[0]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in held]
        traffic = [torch.zeros(3, EXPANSION, *kernel.shape) for kernel in kernels]

        def touch(*_: Any) -> None:
            with torch.no_grad():
                for kernel, memory in zip(kernels, traffic, strict=True):
                    for part in memory:
                        part.mul_(1.0)
                    kernel.mul_(1.0)
                    kernel.grad = None

        optimizer.register_step_post_hook(touch)
        return optimizer


class Obvious(Vanilla):
    """What one would write first."""

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        for ((module, name),) in kernel_targets(model):
            parametrize.register_parametrization(module, name, Exponentials())
        return model


class Exponentials(nn.Module):
    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.detach().repeat(EXPANSION, *[1] * weight.dim())

    def forward(self, copies: Tensor) -> Tensor:
        p = torch.empty_like(copies).exponential_()
        return (p / p.sum(0) * copies).sum(0)


def forward(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def perceptron(hidden: list[int]) -> nn.Module:
    layers = [layer for a, b in pairwise([3072, *hidden]) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 10))


def fully_connected(hidden: list[int], turns: int, target: float) -> Case:
    def batches() -> list[Batch]:
        return [(torch.randn(256, 3072), torch.randint(10, (256,)))]

    return Case(f"fully connected {hidden}", lambda: perceptron(hidden), batches, forward, turns, target)


def residual(baseline: dict[str, Any], **member: int) -> nn.Module:
    """A baseline as it is, or with ``width`` and ``multiplicity`` of its own."""
    asked = {"baseline": baseline, **member}
    return blueprint(group_network(BaselineArchitecture.model_validate(asked))).build(seed=0)


def resnext(turns: int) -> Case:
    def model() -> nn.Module:
        return residual({"preset": "resnext29-3x64d"})

    def batches() -> list[Batch]:
        return [(torch.randn(64, 3, 32, 32), torch.randint(10, (64,)))]

    return Case("ResNeXt-29 3×64d, batch 64", model, batches, forward, turns, 5, heavy=True)


def t5_small(**changes: int) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128}
    return T5ForConditionalGeneration(T5Config(**sizes | changes))


def first_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, decoder_input_ids=tokens[:, :4]).logits


def t5(turns: int) -> Case:
    def batches() -> list[Batch]:  # accumulated, to fit the memory of a small machine
        return [(torch.randint(1, 32128, (32, 128)), torch.randint(1, 32128, (32, 4))) for _ in range(8)]

    return Case("T5-small, 128 → 4 tokens", t5_small, batches, first_tokens, turns, 1, heavy=True)


CASES: dict[str, Callable[[bool], Case]] = {
    "A1": lambda quick: fully_connected([100], 6 if quick else 40, 50),
    "A3": lambda quick: fully_connected([400, 200, 100], 4 if quick else 20, 50),
    "resnext29": lambda quick: resnext(2 if quick else 6),
    "t5-small": lambda quick: t5(1 if quick else 2),
}


def stepper(case: Case, contender: Contender, batches: list[Batch]) -> Callable[[], None]:
    """A function that takes one training step."""
    torch.manual_seed(0)
    method = contender.method
    method.compiles = contender.compiles
    model = method.prepare(case.model(), seed=0).train()
    running: Any = torch.compile(model) if contender.compiles else model
    optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=1e-4, fused=True))
    taken = 0

    def compute_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = case.logits(model, batch[0])
        return functional.cross_entropy(logits.flatten(0, -2), batch[1].flatten()), logits

    def step() -> None:
        nonlocal taken
        optimizer.zero_grad(set_to_none=True)
        method.step(running, batches, compute_loss, step=taken)
        optimizer.step()
        taken += 1

    return step


def contenders() -> dict[str, Contender]:
    """All of them, by name."""
    return {
        "plain": Contender(create("vanilla")),
        "majority": Contender(create("majority", copies=EXPANSION)),
        "floor": Contender(Floor()),
        "operators": Contender(create("majority", copies=EXPANSION), native=False),
        "plain, compiled": Contender(create("vanilla"), compiles=True),
        "compiled": Contender(create("majority", copies=EXPANSION), compiles=True),
        "torch's optimizer": Contender(PlainOptimizer(MajorityOptions(copies=EXPANSION))),
        "obvious": Contender(Obvious()),
    }


def measure(case: Case, clock: Callable[[], float], samples: int | None = None) -> dict[str, float]:
    """Median seconds a step of every contender."""
    found = contenders()
    if case.heavy:
        found = {name: found[name] for name in ("plain", "majority", "floor")}
    batches = case.batches()
    if samples is not None:
        batches = [(batches[0][0][:samples], batches[0][1][:samples])]
    steps = {name: stepper(case, contender, batches) for name, contender in found.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(case.turns):
        for name, step in steps.items():
            with found[name].at_work():
                step()
                for _ in range(1 if case.heavy else 10):
                    start = clock()
                    step()
                    seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_memory() -> None:
    """Peak of three steps of a network of 29 million weights, each contender in a process of its own."""
    print("Peak of memory over three steps of fully connected [4096, 4096], batch 256, in sizes of the plain weights")
    spawn = multiprocessing.get_context("spawn")
    for name in ("plain", "majority", "torch's optimizer", "obvious"):
        with spawn.Pool(1) as pool:
            print(f"{name:32}{pool.apply(peak_memory, (name,)):6.1f}", flush=True)


def peak_memory(name: str) -> float:
    """Of this process, less what it has before the network is built."""
    torch.set_num_threads(1)
    case = fully_connected([4096, 4096], 1, 0)
    weights = sum(4 * parameter.numel() for parameter in case.model().parameters())
    before = resident("VmRSS")
    step = stepper(case, contenders()[name], case.batches())
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(3):
        step()
    return (resident("VmHWM") - before) / weights


def resident(field: str) -> int:
    """Bytes of this process: now, or at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


TRAINING = "training"
WHOLE: dict[str, Any] = {
    "architecture": {"baseline": {"family": "mlp", "inputs": 3072, "hidden": [100], "outputs": 10}},
    "data": {"name": "cifar10"},
    "recipe": {"epochs": 5, "batch_size": 256, "optimizer": "adam", "learning_rate": 1e-4},
}


def measure_training(turns: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of a whole training, plain and with majority kernels."""
    specs = {
        "plain": TrainingSpec.model_validate({**WHOLE, "method": "vanilla"}),
        "majority": TrainingSpec.model_validate({**WHOLE, "method": "majority", "expansion": EXPANSION}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "cifar-10-batches-bin")
        for _ in range(turns):
            for name, spec in specs.items():
                start = clock()
                run(spec, data_dir=Path(folder))
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def write_images(folder: Path) -> None:
    """10,240 training images and 2,048 test images of noise."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"):
        rows = generator.integers(0, 256, (2048, 1 + 3 * 32 * 32), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--only", nargs="+", choices=[*CASES, TRAINING], default=[*CASES, TRAINING])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--samples", type=int, help="samples of a batch, in the place of each case's own")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="time that is counted")
    parser.add_argument("--memory", action="store_true", help="peaks of memory in the place of times")
    options = parser.parse_args()
    if options.memory:
        print_memory()
        return
    clock = {"wall": time.perf_counter, "cpu": time.thread_time}[options.clock]
    if options.clock == "cpu":
        options.threads = 1
    torch.set_num_threads(options.threads)
    print(f"One training step of majority kernels, e = {EXPANSION}, fused Adam, float32; batch 256 if none is named")
    machine = platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {options.threads} threads, {options.clock} time, {machine}")
    shown = {"majority": "plain", "compiled": "plain, compiled", "floor": "plain", "operators": "plain"}
    shown |= {"torch's optimizer": "plain", "obvious": "plain"}
    print(f"{'':32}{'plain':>10}{''.join(f'{name:>18}' for name in shown)}{'at most':>9}")
    for name in options.only:
        if name == TRAINING:
            found = measure_training(2 if options.quick else 8, clock)
            added = 100 * (found["majority"] / found["plain"] - 1)
            title, seconds = "whole training [100], 5 epochs", {key: value * 1e3 for key, value in found.items()}
            print(f"{title:32}{seconds['plain']:8.0f}ms{seconds['majority']:9.0f} {added:+7.1f}%")
            continue
        case = CASES[name](options.quick)
        found = measure(case, clock, options.samples)
        plain = found["plain"]
        cells = "".join(
            f"{found[key] * 1e3:9.1f} {100 * (found[key] / found[beside] - 1):+7.1f}%" if key in found else f"{'–':>18}"
            for key, beside in shown.items()
        )
        print(f"{case.title:32}{plain * 1e3:8.1f}ms{cells}{case.target:+8.0f}%", flush=True)
        above = (f"{name} {found[name] / found['floor']:.2f}" for name in ("majority", "operators") if name in found)
        added = (f"{name} {(found[name] - plain) * 1e3:.1f} ms" for name in ("majority", "floor"))
        print(f"{'':32}times the floor: {', '.join(above)}; added to a step: {', '.join(added)}")
    print("Limited by reading and writing the copies and their optimizer state once; the paper reports +16.67 % for")
    print("fully connected networks (CPU), +9.24 % for ResNet-50 and +0.85 % for T5 (TPU).")


if __name__ == "__main__":
    main()
