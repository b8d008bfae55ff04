"""Samplers of a kernel entry, collegium's and ``torch.func``'s ``vmap(grad)``, on one device, in turn.

The peer gets the best of several batch sizes, one output channel and the receptive field alone, as in
``benchmarks/samplers.py``; both compute in float32, convolutions included (cuDNN's TF32 is off). Where weights may be
drawn or the law of what they do, both are measured: which is cheaper was decided on a processor.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from samplers import CASES, Case, by_vmap, samples_for

from accelerator.section import Bench
from accelerator.timing import median_seconds, seconds_of
from collegium.search.kernel.closed_form import has_closed_form
from collegium.search.sampling.conv import ConvSampler
from collegium.search.sampling.sampler import build_sampler

CHUNKS = (64, 512, 4096, 32_768)
FEWEST_SAMPLES, MOST_SAMPLES = 1 << 12, 1 << 20
FILLED_S = 0.05
"""A draw is long enough where it takes this time: the device is full, and its start costs little."""
METHODS = 3 + len(CHUNKS)


def run(bench: Bench) -> None:
    """A row for each case of ``benchmarks/samplers.py``."""
    torch.backends.cudnn.allow_tf32 = False
    names = ["A48", "B16"] if bench.tiny else list(CASES)
    for index, name in enumerate(names):
        share = bench.left() / (len(names) - index) / METHODS
        bench.row(**measure(CASES[name], torch.device(bench.device), 0.0 if bench.tiny else share / 2, bench.tiny))


def measure(case: Case, device: torch.device, seconds: float, tiny: bool) -> dict[str, Any]:
    """Samples a second of every method, and seconds to 1 % standard error of ln r."""
    most = 32 if tiny else MOST_SAMPLES
    own = rate(build_sampler(case.point, device.type), device, seconds, most)
    peer = best_of_chunks(case, device, seconds, (4,) if tiny else CHUNKS)
    log_ratio, samples = samples_for(case, 256 if tiny else 131_072, device.type)
    row: dict[str, Any] = {"case": case.title, "collegium /s": own, "vmap(grad) /s": peer}
    row["ratio"] = own / peer if peer else None
    forced: tuple[Literal["weights", "law"], ...] = ("weights", "law")
    for hidden in forced:
        row[f"{hidden} drawn /s"] = rate(conv_sampler(case, device, hidden), device, seconds, most)
    return row | {
        "ln r": log_ratio,
        "samples to 1 %": samples,
        "collegium s": samples / own,
        "vmap s": samples / peer if peer else None,
    }


def conv_sampler(case: Case, device: torch.device, hidden: Literal["weights", "law"]) -> Any:
    """The sampler with its hidden layers forced; None where a chain has a closed form, which draws neither."""
    point = case.point
    if has_closed_form(point.chain, point.entry, point.pair):
        return None
    return ConvSampler(point.resolved, point.entry, point.gram_matrix(), device=device, hidden=hidden)


def rate(sampler: Any, device: torch.device, seconds: float, most: int) -> float | None:
    """Samples a second, drawn as many at a time as fill the device."""
    if sampler is None:
        return None
    generator = torch.Generator(device).manual_seed(1)
    count = min(most, FEWEST_SAMPLES)
    while True:
        draw = partial(sampler.draw, count, generator)
        draw()  # buffers are made
        if count >= most or seconds_of(draw, device) >= FILLED_S:
            return count / median_seconds(draw, device, seconds)
        count *= 4


def best_of_chunks(case: Case, device: torch.device, seconds: float, chunks: tuple[int, ...]) -> float:
    """The peer's samples a second at the batch size that suits it best, of those that memory and time allow."""
    best = 0.0
    for chunk in chunks:
        try:
            count, draw = by_vmap(case, chunk, device.type)
            draw()
            if best and seconds_of(draw, device) > seconds:
                break
            best = max(best, count / median_seconds(draw, device, seconds))
        except torch.OutOfMemoryError:
            break
    return best
