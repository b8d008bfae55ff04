"""Measurements of one module's regroupings: series of draws that go on where they ended."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from collegium.search.errors import InvalidSpec
from collegium.search.progress import Report
from collegium.search.whole_network.draws import Series, Work, single_threads
from collegium.search.whole_network.inputs.samples import Samples
from collegium.search.whole_network.kernel import NetworkKernel
from collegium.search.whole_network.plain.module import OwnCandidate, Subject
from collegium.search.whole_network.spec import NetworkKernelSpec
from collegium.search.whole_network.statistics import FEWEST_DRAWS, ratio

#: Relative difference beyond which draws that were mapped are not those that were made one by one.
SAME = 1e-3
#: What a module may raise when it is mapped over draws and does not allow it; torch warns where it would be slow.
NOT_MAPPED = (RuntimeError, TypeError, ValueError, IndexError, Warning)


@dataclass(frozen=True)
class Ratio:
    """A candidate's variance over the baseline's, with its standard error; ``converged``: as small as was asked."""

    candidate: OwnCandidate
    value: float
    standard_error: float
    variance: float
    converged: bool

    @property
    def low(self) -> float:
        """Two standard errors below."""
        return self.value - 2 * self.standard_error


@dataclass
class Measuring:
    """Draws of a module and its regroupings at one batch; ``deadline`` is when the last of them ends."""

    subject: Subject
    batch: Samples
    spec: NetworkKernelSpec
    seed: int
    device: str
    cores: int
    clock: Callable[[], float]
    baseline: OwnCandidate
    started: float
    normed: bool = False
    spent: float = 0.0
    mapped: bool = False
    series: dict[int, Series] = field(default_factory=dict)
    #: The series of the latest measurement, by the key of its candidate.
    latest: dict[int, Series] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        subject: Subject,
        batch: Samples,
        spec: NetworkKernelSpec,
        own: tuple[tuple[int, ...], int],
        seed: int,
        device: str,
        report: Report,
    ) -> Measuring:
        """Measure one draw, and report what it costs; ``own`` are the widths and m that the baseline has.

        Raises ``InvalidSpec`` where it cannot be drawn.
        """
        clock = time.perf_counter
        counts = subject.described.parameters
        baseline = OwnCandidate("baseline", subject, *own, counts)
        cores = torch.get_num_threads() if device == "cpu" else 1
        made = cls(subject, batch, spec, seed, device, cores, clock, baseline, clock())
        report(0.0, "building the module")
        with single_threads(1) as pool:
            pool.submit(made._try, report).result()
        return made

    def _try(self, report: Report) -> None:
        kernel = self._kernel(self.baseline)
        self.normed = kernel.normed
        try:
            own = kernel.draw(self.seed, [0, 1])
            begun = self.clock()
            kernel.draw(self.seed, [2])
        except ValueError as error:  # a batch norm without a second number to compare with
            raise InvalidSpec(("network", "images"), f"{error}; give more samples") from None
        seconds = self.clock() - begun
        if not np.isfinite(own).all() or not (np.diagonal(own, axis1=2, axis2=3) > 0).all():
            raise InvalidSpec(("model",), "its kernel is not a positive number: some output does not depend on it")
        self.mapped = self._mappable(own)
        if self.mapped:
            self.baseline = replace(self.baseline, mapped=True)
        draws = round(4 / self.spec.relative_error**2)
        report(
            0.0,
            f"one draw of the baseline takes {seconds:.2g} s of a core{', or less' if self.mapped else ''}; about "
            f"{draws:,} are needed of each network that is measured well, and all end after "
            f"{self.spec.max_seconds:g} s",
        )

    def _mappable(self, own: np.ndarray) -> bool:
        """Whether draws of the module can be computed at once, and are then the same."""
        candidate = replace(self.baseline, mapped=True)
        layers = self.subject.template.modules()
        if candidate.at_once(self.device) == 1 or any(isinstance(each, nn.modules.conv._ConvNd) for each in layers):
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = self._kernel(candidate).draw(self.seed, [0, 1])
        except NOT_MAPPED:
            return False
        return bool(np.allclose(found, own, rtol=SAME))

    def _kernel(self, candidate: OwnCandidate) -> NetworkKernel:
        return NetworkKernel(candidate, self.spec, self.batch, self.device)

    def candidate(self, name: str, widths: tuple[int, ...], m: int, parameters: int, groupings: tuple) -> OwnCandidate:
        """A regrouping of the module."""
        return OwnCandidate(name, self.subject, widths, m, parameters, groupings, self.mapped)

    def ratios(
        self,
        candidates: Sequence[OwnCandidate],
        relative_error: float,
        until: float,
        report: Report,
        seed: int | None = None,
    ) -> list[Ratio]:
        """The ratio of each to the baseline, to ``relative_error``, or to what the share ``until`` of the time allows.

        Draws by the search's own ``seed`` are kept: another call goes on with them.
        """
        kept = self.series if seed is None else {}
        wanted = [self.baseline, *candidates]
        series = {each.key: kept.setdefault(each.key, Series(each)) for each in wanted}
        deadline = self.started + until * self.spec.max_seconds
        left = max(1e-3, deadline - self.clock())
        spec = self.spec.model_copy(update={"relative_error": relative_error, "max_seconds": left})
        work = Work(spec, self.batch, self.seed if seed is None else seed, self.device, deadline, self.clock)
        with single_threads(self.cores) as pool:
            work.run(list(series.values()), pool, report)
        self.spent += work.spent
        self.latest = series
        return [self._ratio(each, series, relative_error) for each in candidates]

    def _ratio(self, candidate: OwnCandidate, series: dict[int, Series], relative_error: float) -> Ratio:
        own, baseline = series[candidate.key].variance, series[self.baseline.key].variance
        found = ratio(own, baseline)
        value, error = found if found is not None else (math.nan, math.inf)
        enough = min(own.draws, baseline.draws) >= FEWEST_DRAWS
        return Ratio(candidate, value, error, own.value, enough and error <= relative_error * value)

    @property
    def draws(self) -> int:
        """Draws that are kept, of all candidates."""
        return sum(len(each.grams) for each in self.series.values())
