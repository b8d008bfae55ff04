"""Draws of several networks' kernels, on several cores, until every variance is known well enough or time is up."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from collegium.search.errors import InvalidSpec
from collegium.search.progress import Report
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.spec import NetworkKernelSpec
from collegium.search.whole_network.statistics import FEWEST_DRAWS, RelativeVariance, relative_variance

if TYPE_CHECKING:
    from collegium.search.whole_network.kernel import NetworkKernel

#: Seconds between two reports.
BEAT = 0.2
#: Draws of one network: at least, however little time there is, and at most, however uncertain its variance.
FEWEST_AT_ALL, MOST_DRAWS = 2, 200_000


@dataclass
class Series:
    """The draws of one network so far, by their indices."""

    candidate: Candidate
    grams: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def stacked(self) -> np.ndarray:
        """``(draws, outputs, inputs, inputs)`` in the order of the indices."""
        return np.stack([self.grams[index] for index in sorted(self.grams)])

    @property
    def variance(self) -> RelativeVariance:
        """What the draws say so far."""
        return relative_variance(np.diagonal(self.stacked, axis1=2, axis2=3))

    def needed(self, relative_error: float) -> int:
        """Draws that the error so far asks for, with a little more, since that error is an estimate itself."""
        have = len(self.grams)
        if have < FEWEST_DRAWS:
            return max(FEWEST_DRAWS, round(2 / relative_error**2))  # as for a Gaussian entry
        factor = (self.variance.relative_error / relative_error) ** 2
        return have if factor <= 1 else math.ceil(min(MOST_DRAWS, 1.05 * factor * have))

    def wanted(self, relative_error: float) -> int:
        """Draws to have after the next round: twice as many as there are at most."""
        have = len(self.grams)
        return FEWEST_DRAWS if have < FEWEST_DRAWS else min(2 * have, self.needed(relative_error))


@dataclass
class Work:
    """Draws until every variance has its share of the ratio's error, or until ``deadline``."""

    spec: NetworkKernelSpec
    batch: np.ndarray
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

    def check(self, baseline: Candidate) -> bool:
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
        error = self.spec.relative_error / math.sqrt(2)
        self._needed = sum(each.needed(error) for each in series)
        tasks = []
        for position, each in enumerate(series):
            have, want = len(each.grams), each.wanted(error)
            size = each.candidate.at_once(self.device)
            for start in range(have, want, size):
                tasks.append(((start - have) / (want - have), position, range(start, min(want, start + size))))
        return [(series[position], indices) for _, position, indices in sorted(tasks, key=lambda task: task[:2])]

    def _draw(self, series: Series, indices: range) -> None:
        started = self.clock()
        late = self._late.is_set() or started >= self.deadline
        if self._cancelled.is_set() or (late and len(series.grams) >= FEWEST_AT_ALL):
            self._late.set()
            return
        grams = self._kernel(series.candidate).draw(self.seed, indices)
        with self._lock:
            series.grams.update(zip(indices, grams, strict=True))
            self.spent += self.clock() - started

    def _kernel(self, candidate: Candidate) -> NetworkKernel:
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
