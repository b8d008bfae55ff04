"""Samples of the kernel entry K(x, x) per second: collegium, torch.func's ``vmap(grad)``, a loop of autograd.

    python benchmarks/samplers.py [--quick] [--only CASE …]

Two single-threaded processes work at once on every measurement, and their rates add up; a rate is a batch over the
median of its processor time, which other work on the machine disturbs less than the wall clock does.

All methods sample the same law, so the time to 1 % standard error of ln r is the number of samples that this takes,
estimated once, over the rate. The peers get what speeds them up and does not change the law: one output channel, the
receptive field alone for a unit entry, and the best of several batch sizes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection

import torch

from collegium.search.kernel.inputs import DEFAULT_CORRELATION, correlation_gram
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.sampling.reference import inputs_with_gram, kernel_samples, module_of
from collegium.search.sampling.sampler import build_sampler
from collegium.search.sampling.unfold import conv_shapes

PROCESSES = 2
CHUNKS = (8, 32, 128)


@dataclass(frozen=True)
class Case:
    """A kernel entry, and the same one cut down to what a peer needs."""

    title: str
    chain: Chain
    entry: str
    peer: Chain
    limit: str

    @property
    def point(self) -> KernelPoint:
        return KernelPoint(chain=self.chain, widths=(), entry=self.entry, correlation=DEFAULT_CORRELATION)


def mlp(width: int) -> Case:
    layers = (*(WeightLayer("dense", width) for _ in range(5)), WeightLayer("dense", 1, "linear"))
    chain = Chain(784, 1, 1, layers, ())
    return Case(f"MLP 784 → [{width}]*5 → 1", chain, "unit", chain, "O(1) numbers a layer: special functions")


def block(title: str, width: int, entry: str, kernels: tuple[int, ...], limit: str) -> Case:
    """1×1 → width → k×k … → 256 channels, on a 256×8×8 map."""
    outs = (*(width for _ in kernels[1:]), 256)
    layers = [WeightLayer("conv", out, kernel=k, padding=k // 2) for out, k in zip(outs, kernels, strict=True)]
    layers[-1] = replace(layers[-1], activation="linear")
    chain = Chain(256, 8, 8, tuple(layers), ())
    seen = [*layers[:-1], replace(layers[-1], out=1)]
    if entry == "pooled":
        return Case(title, chain, entry, replace(chain, layers=tuple(seen)), limit)
    window = input_window(chain, entry)
    cropped = tuple(replace(layer, padding=0) for layer in seen)
    return Case(title, chain, entry, Chain(256, window.height, window.width, cropped, ()), limit)


CASES = {
    "A48": mlp(48),
    "A200": mlp(200),
    "U16": block("bottleneck's unit, n = 16", 16, "unit", (1, 3, 1), "normal numbers and memory passes"),
    "U64": block("bottleneck's unit, n = 64", 64, "unit", (1, 3, 1), "normal numbers and memory passes"),
    "B16": block("bottleneck pooled, n = 16", 16, "pooled", (1, 3, 1), "memory passes, then normal numbers"),
    "B64": block("bottleneck pooled, n = 64", 64, "pooled", (1, 3, 1), "normal numbers, then matrix products"),
    "C64": block("unit of 1×1 → 3×3 → 3×3, n = 64", 64, "unit", (1, 3, 3), "normal numbers, then memory passes"),
}


def by_collegium(case: Case) -> tuple[int, Callable[[], object]]:
    sampler, generator = build_sampler(case.point), torch.Generator().manual_seed(1)
    sampler.draw(64, generator)
    start = time.thread_time()
    sampler.draw(256, generator)
    count = max(64, int(256 * 0.1 / (time.thread_time() - start)))
    return count, lambda: sampler.draw(count, generator)


def by_vmap(case: Case, chunk: int, device: str = "cpu") -> tuple[int, Callable[[], object]]:
    module, x = module_of(case.peer, (), case.entry).to(device), peer_input(case).to(device)
    generator = torch.Generator(device).manual_seed(1)
    return chunk, lambda: kernel_samples(module, x, x, chunk, generator, chunk)


def by_loop(case: Case) -> tuple[int, Callable[[], object]]:
    module, x, generator = (
        module_of(case.peer, (), case.entry),
        peer_input(case)[None],
        torch.Generator().manual_seed(1),
    )
    parameters = list(module.parameters())

    def once() -> float:
        with torch.no_grad():
            for parameter in parameters:
                parameter.normal_(generator=generator)
        return sum(float(g.square().sum()) for g in torch.autograd.grad(module(x), parameters))

    return 1, once


def peer_input(case: Case) -> torch.Tensor:
    window = input_window(case.peer, case.entry)
    gram = correlation_gram(DEFAULT_CORRELATION, window.height, window.width)
    return inputs_with_gram(case.peer, case.entry, gram)[0].float()


METHODS: dict[str, Callable[[Case], tuple[int, Callable[[], object]]]] = {
    "collegium": by_collegium,
    **{f"vmap {chunk}": partial(by_vmap, chunk=chunk) for chunk in CHUNKS},
    "loop": by_loop,
}


def worker(pipe: Connection) -> None:
    """Receive (case, method, seconds) and send samples per second, until None arrives."""
    torch.set_num_threads(1)
    while (task := pipe.recv()) is not None:
        case, method, seconds = task
        count, run = METHODS[method](CASES[case])
        run()
        pipe.send("ready")
        pipe.recv()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 5:
            start = time.thread_time()
            run()
            times.append(time.thread_time() - start)
        pipe.send(count / statistics.median(times))


class Bench:
    """Processes that measure side by side."""

    def __init__(self, seconds: float):
        context = multiprocessing.get_context("spawn")
        self._seconds, self._pipes = seconds, []
        for _ in range(PROCESSES):
            here, there = context.Pipe()
            context.Process(target=worker, args=(there,), daemon=True).start()
            self._pipes.append(here)

    def rate(self, case: str, method: str) -> float:
        """Samples per second of all processes together."""
        for pipe in self._pipes:
            pipe.send((case, method, self._seconds))
        for pipe in self._pipes:
            pipe.recv()
        for pipe in self._pipes:
            pipe.send("go")
        return sum(pipe.recv() for pipe in self._pipes)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)


def samples_for(case: Case, drawn: int, device: str = "cpu", relative_error: float = 0.01) -> tuple[float, float]:
    """ln r, and the samples after which its relative standard error is ``relative_error``."""
    sampler, generator = build_sampler(case.point, device), torch.Generator(device).manual_seed(2)
    moments = Moments()
    for _ in range(8):
        moments = moments.merge(Moments.of(sampler.draw(drawn // 8, generator).double().cpu().numpy()))
    estimate = moments.estimate()
    return estimate.log_ratio, drawn * (estimate.relative_error / relative_error) ** 2


def normals_per_second() -> float:
    buffer, generator = torch.empty(1 << 15), torch.Generator().manual_seed(3)
    times = []
    for _ in range(100):
        start = time.thread_time()
        buffer.normal_(generator=generator)
        times.append(time.thread_time() - start)
    return PROCESSES * len(buffer) / statistics.median(times)


def weights(case: Case) -> int:
    """Normal numbers that a sample takes when every weight is drawn."""
    return sum(s.groups * s.group_out * s.fan_in for s in conv_shapes(case.peer, case.entry))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Samples of a kernel entry per second, and those of torch's own methods."
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, and as much noisier")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    numbers = normals_per_second()
    print(
        f"torch {torch.__version__}, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} cores, {PROCESSES} single-threaded processes, float32; "
        f"{numbers / 1e9:.2f} G normal numbers/s\n"
    )
    print("samples per second, and seconds to 1 % standard error of ln r")
    columns = ("collegium", "vmap(grad)", "loop", "ratio", "all weights", "ln r", "samples", "seconds", "peer's s")
    print(f"{'':36}" + "".join(f"{c:>12}" for c in columns) + "  limited by")
    bench = Bench(0.3 if chosen.quick else 3.0)
    for name in chosen.only:
        case = CASES[name]
        rates = {method: bench.rate(name, method) for method in METHODS}
        vmap = max(rate for method, rate in rates.items() if method.startswith("vmap"))
        peer = max(vmap, rates["loop"])
        log_ratio, samples = samples_for(case, 16_384 if chosen.quick else 131_072)
        cells = (
            *(f"{rate:,.0f}" for rate in (rates["collegium"], vmap, rates["loop"])),
            f"{rates['collegium'] / peer:.1f}×",
            f"{numbers / weights(case):,.0f}",
            f"{log_ratio:.4f}",
            f"{samples:,.0f}",
            f"{samples / rates['collegium']:.2f}",
            f"{samples / peer:.2f}",
        )
        print(f"{name:5}{case.title:31}" + "".join(f"{cell:>12}" for cell in cells) + f"  {case.limit}", flush=True)
    bench.close()
    print(
        "\nratio: collegium to the best peer. all weights: what torch's normal numbers alone allow where each weight is"
        "\ndrawn, as by the peers. collegium draws the law of what the weights do where that is cheaper."
    )


if __name__ == "__main__":
    main()
