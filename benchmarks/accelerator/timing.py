"""Wall-clock time of work that a device does on its own, and the most memory it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds from an idle device to an idle device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], device: torch.device, seconds: float, least: int = 3) -> float:
    """Median over at least ``least`` runs, and as many as take ``seconds``."""
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        times.append(seconds_of(work, device))
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait for everything that ``device`` was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes allocated while ``work`` runs, beyond those before it; None on a processor, which does not count."""
    if device.type != "cuda":
        work()
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def gibibytes(count: int | None) -> float | None:
    """Bytes as GiB, with two digits after the point."""
    return None if count is None else round(count / 2**30, 2)
