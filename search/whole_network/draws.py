"""Draws of several networks' kernels, on several cores, until every variance is known well enough or time is up."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from collegium.search.errors import InvalidSpec
from collegium.search.progress import Report
from collegium.search.whole_network.candidate import Measured
from collegium.search.whole_network.inputs.samples import Samples
from collegium.search.whole_network.spec import NetworkKernelSpec
from collegium.search.whole_network.statistics import FEWEST_DRAWS, RelativeVariance, ratio, relative_variance

if TYPE_CHECKING:
    from collegium.search.whole_network.kernel import NetworkKernel

#: Seconds between two reports.
BEAT = 0.2
#: Draws of one network: at least, however little time there is, and at most, however uncertain its variance.
FEWEST_AT_ALL, MOST_DRAWS = 2, 200_000


@dataclass
class Series:
    """The draws of one network so far, by their indices."""

    candidate: Measured
    grams: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def stacked(self) -> np.ndarray:
        """``(draws, outputs, inputs, inputs)`` in the order of the indices."""
        return np.stack([self.grams[index] for index in sorted(self.grams)])

    @property
    def variance(self) -> RelativeVariance:
        """The variance by the draws so far."""
        return relative_variance(np.diagonal(self.stacked, axis1=2, axis2=3), np.array(sorted(self.grams)))


def needed_draws(series: Sequence[Series], relative_error: float) -> list[int]:
    """Draws of each network for its ratio to the first one; of the first, for every ratio and its own variance.

    A little more, since an error is an estimate itself. Before there is one, as for independent Gaussian entries.
    """
    have = [len(each.grams) for each in series]
    if min(have) < FEWEST_DRAWS:
        return [max(FEWEST_DRAWS, round(4 / relative_error**2))] * len(series)
    baseline, *others = [each.variance for each in series]
    errors = [_ratio_error(each, baseline) for each in others]
    errors.insert(0, max([baseline.relative_error, *errors]))
    return [_grown(count, (error / relative_error) ** 2) for count, error in zip(have, errors, strict=True)]


def _ratio_error(variance: RelativeVariance, baseline: RelativeVariance) -> float:
    """Relative error of a ratio; where the baseline's variance is zero no draw would lessen it."""
    found = ratio(variance, baseline)
    if found is None:
        return 0.0
    return found[1] / found[0] if found[0] > 0 else math.inf


def _grown(have: int, factor: float) -> int:
    return have if factor <= 1 else math.ceil(min(MOST_DRAWS, 1.05 * factor * have))


@dataclass
class Work:
    """Draws until every variance has its share of the ratio's error, or until ``deadline``."""

    spec: NetworkKernelSpec
    batch: np.ndarray | Samples
    seed: int
    device: str
    deadline: float
    clock: Callable[[], float]
    spent: float = 0.0
    _fraction: float = 0.0
    _needed: int = 0
    _late: threading.Event = field(default_factory=threading.Event)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _own: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, baseline: Measured) -> bool:
        """Whether the network has batch norms. Raises ``InvalidSpec`` where one draw of it cannot be computed."""
        from collegium.search.whole_network.kernel import NetworkKernel

        kernel = NetworkKernel(baseline, self.spec, self.batch, self.device)
        try:
            kernel.draw(self.seed, [0])
        except ValueError as error:  # a batch norm without a second number to compare with
            raise InvalidSpec(("network", "images"), f"{error}; give more images or pixels") from None
        return kernel.normed

    def run(self, series: list[Series], pool: ThreadPoolExecutor, report: Report) -> None:
        """Rounds of draws; networks take turns, so that time that runs out is shared."""
        try:
            while not self._late.is_set() and (tasks := self._round(series)):
                pending = {pool.submit(self._draw, *task) for task in tasks}
                while pending:
                    done, pending = wait(pending, BEAT, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    report(*self._progress(series))
        finally:
            self._cancelled.set()

    def _round(self, series: list[Series]) -> list[tuple[Series, range]]:
        needed = needed_draws(series, self.spec.relative_error)
        self._needed = sum(needed)
        tasks = []
        for position, each in enumerate(series):
            have = len(each.grams)
            want = min(max(FEWEST_DRAWS, 2 * have), max(needed[position], have))
            size = each.candidate.at_once(self.device)
            for start in range(have, want, size):
                tasks.append(((start - have) / (want - have), position, range(start, min(want, start + size))))
        return [(series[position], indices) for _, position, indices in sorted(tasks, key=lambda task: task[:2])]

    def _draw(self, series: Series, indices: range) -> None:
        late = self._late.is_set() or self.clock() >= self.deadline
        if self._cancelled.is_set() or (late and len(series.grams) >= FEWEST_AT_ALL):
            self._late.set()
            return
        started = time.thread_time()
        grams = self._kernel(series.candidate).draw(self.seed, indices)
        with self._lock:
            series.grams.update(zip(indices, grams, strict=True))
            self.spent += time.thread_time() - started

    def _kernel(self, candidate: Measured) -> NetworkKernel:
        """This thread's own."""
        from collegium.search.whole_network.kernel import NetworkKernel

        kernels = self._own.__dict__.setdefault("kernels", {})
        if candidate.key not in kernels:
            kernels[candidate.key] = NetworkKernel(candidate, self.spec, self.batch, self.device)
        return kernels[candidate.key]

    def _progress(self, series: list[Series]) -> tuple[float, str]:
        """The larger of the shares of the time and of the draws; it never falls, though more draws may be asked for."""
        with self._lock:
            draws = sum(len(each.grams) for each in series)
        passed = 1 - (self.deadline - self.clock()) / self.spec.max_seconds
        self._fraction = min(0.99, max(self._fraction, passed, draws / max(1, self._needed)))
        return self._fraction, f"measuring whole networks: {draws:,} initializations so far"


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads use one core each; the caller's number of threads is restored afterwards."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(max(1, count), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
