"""Streaming moments of a kernel entry, mergeable in any grouping, and the error of ln r that they support.

K is heavy-tailed, and the error of ln r = ln E[K²] − 2 ln E[K] rests on E[K⁴], most of which lies beyond the largest of
a moderate number of samples. The usual delta method therefore reports too small an error just where it matters: 0.6 of
the true one, typically, for 5 layers of width 8 and 10⁴ samples. (Comparing
shards does not help: they see the same samples.)
So the largest samples are kept as well, and beyond the point where they begin, a tail fitted through them takes their
place in the error: up to the depth that so many samples reach, in the variance of ln r; beyond it, in what they miss of
E[K²] and E[K]. The tail is bounded by what a kernel of that depth can be. The estimate of ln r itself stays free of any
model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from collegium.search.fields import Strict

#: Most samples of largest magnitude that are kept.
EXTREMES = 256
#: Fewest samples, and fewest nonzero extremes among them, from which an error is reported.
FEWEST, FEWEST_EXTREMES = 32, 8
#: Largest ln (K / E[K]) of a fitted tail: its fourth power is still a number.
LARGEST_LOG = 150.0
#: Relative steepening of a fitted tail, times √samples: few of them look lighter than they are.
CAUTION = 1.0
#: −ln of the largest and smallest probability between which a fitted tail is drawn, and the steps between them.
SHALLOWEST, DEEPEST, DEPTHS = 0.1, 600.0, 2401
#: ln r below this is taken for zero: a kernel entry that does not vary but for rounding.
RESOLUTION = 1e-9


@dataclass(frozen=True)
class Estimate:
    """An estimate of the moment ratio r = E[K²] / E[K]² from ``samples`` draws.

    ``log_ratio`` is ln r and ``standard_error`` the root of its expected squared error, of which what the samples are
    likely to miss is a part; both are infinite where there are too few samples. ``plain_error`` is the delta method's,
    blind to the tail. ``tail_index`` is Hill's estimate from the largest samples: about the highest order of a moment
    of K that this number of samples sees; infinite for a constant K.
    """

    ratio: float
    log_ratio: float
    standard_error: float
    samples: int
    mean: float
    plain_error: float
    tail_index: float

    @property
    def heavy(self) -> bool:
        """Whether E[K⁴] lies beyond the samples, so that the standard error rests on the fitted tail."""
        return self.tail_index < 4

    @property
    def relative_error(self) -> float:
        """Standard error over |ln r|; zero where K does not vary."""
        if self.standard_error <= RESOLUTION:
            return 0.0
        if math.isinf(self.standard_error):
            return math.inf
        return self.standard_error / max(abs(self.log_ratio), RESOLUTION)

    @property
    def saturated(self) -> bool:
        """Whether r² exceeds the number of samples, so that E[K²] lies beyond them and the error may as well.

        That is where it lies for a log-normal K; r of the samples themselves never exceeds their number.
        """
        return 2 * self.log_ratio > math.log(self.samples)

    def converged(self, relative_error: float) -> bool:
        """Whether the relative standard error of ln r is at most ``relative_error``, and can be trusted."""
        return self.relative_error <= relative_error and not self.saturated


class Moments(Strict):
    """Moments of ``count`` samples: their mean, sums of powers 2, 3 and 4 of the deviations from it, and extremes.

    ``extremes`` are the samples of largest magnitude, at most ``EXTREMES``, largest first. Centred sums keep r − 1
    accurate where K hardly varies; raw power sums would cancel. ``zeros`` counts the samples that are exactly zero:
    networks in which a whole layer is dead.
    """

    count: Annotated[int, Field(ge=0)] = 0
    zeros: Annotated[int, Field(ge=0)] = 0
    mean: float = 0.0
    second: Annotated[float, Field(ge=0)] = 0.0
    third: float = 0.0
    fourth: Annotated[float, Field(ge=0)] = 0.0
    extremes: Annotated[tuple[float, ...], Field(max_length=EXTREMES, strict=False)] = ()

    @classmethod
    def of(cls, samples: ArrayLike) -> Self:
        """The moments of an array of samples. Raises ``ValueError`` where one is not finite."""
        values = np.asarray(samples, dtype=float).ravel()
        if not np.isfinite(values).all():
            raise ValueError("a kernel entry is not finite")
        if not values.size:
            return cls()
        mean = float(values.mean())
        deviation = values - mean
        square = deviation * deviation
        return cls(
            count=values.size,
            zeros=int(values.size - np.count_nonzero(values)),
            mean=mean,
            second=float(square.sum()),
            third=float((square * deviation).sum()),
            fourth=float((square * square).sum()),
            extremes=_largest(values),
        )

    def merge(self, other: Self) -> Self:
        """The moments of both sets of samples together (Pébay 2008, Eq. 2.1 with p = 2, 3, 4)."""
        if not self.count or not other.count:
            return self if self.count else other
        first, second, count = self.count, other.count, self.count + other.count
        gap = other.mean - self.mean
        step = gap / count
        cross = first * second * step * gap
        return type(self)(
            count=count,
            zeros=self.zeros + other.zeros,
            mean=self.mean + second * step,
            second=self.second + other.second + cross,
            third=self.third
            + other.third
            + cross * (first - second) * step
            + 3 * step * (first * other.second - second * self.second),
            fourth=self.fourth
            + other.fourth
            + cross * (first * first - first * second + second * second) * step**2
            + 6 * step**2 * (first * first * other.second + second * second * self.second)
            + 4 * step * (first * other.third - second * self.third),
            extremes=merge_extremes(self.extremes, other.extremes),
        )

    def estimate(self, layers: int | None = None, *, homogeneous: bool = True) -> Estimate:
        """r with its error. Raises ``ValueError`` without samples; infinite where every sample is zero.

        ``layers`` is the number of weight layers of the kernel's chain, which bounds its tail (see ``_Tail``);
        ``homogeneous`` says that its activations are rectifiers, leaky or not, or linear, which bounds r itself. With
        y = K / E[K] − 1 and v = E[y²], the influence of one sample on ln r is (y² − v − 2 v y) / r; the variance of
        ln r is the mean of its square over the number of samples.
        """
        if not self.count:
            raise ValueError("no samples to estimate from")
        if self.mean == 0.0:
            return Estimate(math.inf, math.inf, math.inf, self.count, 0.0, math.inf, 0.0)
        spread, skew, peak = (
            sum_ / self.count / self.mean**power
            for power, sum_ in ((2, self.second), (3, self.third), (4, self.fourth))
        )
        ratio = 1.0 + spread
        plain = max(0.0, peak - spread**2 - 4 * spread * skew + 4 * spread**3) / ratio**2
        tail = _Tail.through(self, None if layers is None else layers - 1, homogeneous)
        return Estimate(
            ratio=ratio,
            log_ratio=math.log1p(spread),
            standard_error=math.inf if tail is None else tail.standard_error(plain, self, spread),
            samples=self.count,
            mean=self.mean,
            plain_error=math.sqrt(plain / self.count),
            tail_index=0.0 if tail is None else tail.index,
        )


def merge_extremes(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    """The extremes of both sets of samples together."""
    return _largest(np.array(one + other))


def _largest(values: np.ndarray) -> tuple[float, ...]:
    """The values of largest magnitude, largest first; of ±x, the positive one comes first."""
    if values.size > EXTREMES:
        magnitude = np.abs(values)
        values = values[magnitude >= np.partition(magnitude, -EXTREMES)[-EXTREMES]]
    return tuple(values[np.lexsort((-values, -np.abs(values)))][:EXTREMES].tolist())


@dataclass(frozen=True)
class _Tail:
    """The tail of |K| beyond its largest samples, as quantiles: ln |K| at depth d = −ln p, p the probability of a
    larger one where K is not zero.

    K is a polynomial in Gaussians, so its tail is in the end a stretched exponential, ln |K| = a + b ln d; at the
    probabilities that samples reach it still steepens, as a log-normal does, ln |K| = a + b z(p). The first gives too
    small an error, by up to a tenth, the second too large a one; the tail is taken half way between the two, but no
    steeper than d^degree: a sum of products of ``degree`` squares of Gaussians, as K of a chain of degree + 1 layers
    is, has no heavier tail (‖K‖_q grows as q^degree: hypercontractivity, e.g. Janson 1997, theorem 6.7), and no
    activation that grows at most linearly gives it one.
    """

    samples: np.ndarray
    alive: int
    normal: tuple[float, float]
    stretched: tuple[float, float]
    index: float
    degree: int | None
    homogeneous: bool = True

    @classmethod
    def through(cls, moments: Moments, degree: int | None, homogeneous: bool = True) -> _Tail | None:
        """The tail through the largest samples, as many as Vehtari et al. (2024) take; None where they are too few."""
        alive = moments.count - moments.zeros
        count = min(EXTREMES, max(FEWEST_EXTREMES, int(min(0.2 * alive, 3 * math.sqrt(alive)))))
        if moments.count < FEWEST or alive < FEWEST_EXTREMES:
            return None
        samples = np.array(moments.extremes[:count])
        logs = np.log(np.abs(samples))
        rank = np.arange(1, len(samples) + 1)
        probability = (rank - 0.375) / (alive + 0.25)
        excess = float(logs[:-1].mean() - logs[-1])
        return cls(
            samples,
            alive,
            normal=_line(-_normal_quantiles(probability), logs, rank),
            stretched=_line(np.log(-np.log(probability)), logs, rank),
            index=1 / excess if excess > 1e-9 else math.inf,
            degree=degree,
            homogeneous=homogeneous,
        )

    def standard_error(self, plain: float, moments: Moments, spread: float) -> float:
        """√(variance + missed²): the variance of ln r from samples as deep as these, and ln r of what lies deeper.

        ``plain`` is the mean squared influence of all samples, in which the tail takes the place of the largest.
        """
        share = self.alive / moments.count
        depth, relative = self.quantiles(moments.mean)
        within = depth <= max(math.log(self.alive), depth[1])
        influence = self._over_signs(lambda k: _influence(k, spread) ** 2, relative)
        own = float((_influence(self.samples / moments.mean, spread) ** 2).sum()) / moments.count
        variance = max(plain, plain - own + share * _weighed(influence[within], depth[within])) / moments.count
        second = self._over_signs(lambda k: (k - 1) * (k + 1) - spread, relative)[~within] / (1 + spread)
        first = self._over_signs(lambda k: k - 1, relative)[~within]
        more, larger = (share * _weighed(gain, depth[~within]) for gain in (second, first))
        missed = math.log1p(max(more, -0.9)) - 2 * math.log1p(max(larger, -0.9))
        return min(math.hypot(math.sqrt(variance), missed), self.largest_log_ratio)

    @property
    def largest_log_ratio(self) -> float:
        """No ln r is larger where K is not negative: 3 for the square of each Gaussian, 2 for its gate, at width 1.

        Of activations that are not homogeneous nothing of the kind is known.
        """
        if self.degree is None or not self.homogeneous or (self.samples < 0).any():
            return math.inf
        return self.degree * math.log(6)

    def quantiles(self, mean: float) -> tuple[np.ndarray, np.ndarray]:
        """Depths from where the tail begins, and K / E[K] there, of the sign of the mean."""
        start = max(SHALLOWEST, math.log(self.alive / len(self.samples)))
        reach = max(60.0, 8.0 * (self.degree or 0), (4 * self.normal[1] + 6) ** 2 / 2)
        depth = start + np.linspace(0.0, min(reach, DEEPEST), DEPTHS)
        (a, b), (c, d) = self.normal, self.stretched
        logs = (a - b * _normal_quantiles(np.exp(-depth)) + c + d * np.log(depth)) / 2
        logs = logs[0] + (1 + CAUTION / math.sqrt(len(self.samples))) * (logs - logs[0])
        if self.degree is not None:
            most = self.degree * np.diff(np.log(depth))
            logs = logs[0] + np.concatenate([[0.0], np.cumsum(np.minimum(np.diff(logs), most))])
        return depth, math.copysign(1.0, mean) * np.exp(np.minimum(logs - math.log(abs(mean)), LARGEST_LOG))

    def _over_signs(self, function: Callable[[np.ndarray], np.ndarray], relative: np.ndarray) -> np.ndarray:
        """The function at K / E[K] with either sign, as often as the largest samples have it."""
        positive = float(np.mean(self.samples > 0))
        return positive * function(relative) + (1 - positive) * function(-relative)


def _weighed(values: np.ndarray, depth: np.ndarray) -> float:
    """The integral over probabilities e^−depth."""
    return float(np.trapezoid(values * np.exp(-depth), depth))


def _influence(relative: np.ndarray, spread: float) -> np.ndarray:
    """Influence on ln r of samples K / E[K]."""
    deviation = relative - 1
    return (deviation**2 - spread - 2 * spread * deviation) / (1 + spread)


def _normal_quantiles(probability: np.ndarray) -> np.ndarray:
    # Imported here: it takes as long as all that a specification needs.
    from scipy.special import ndtri

    return ndtri(probability)


def _line(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Intercept and slope (at least zero) of the weighted least-squares line; the largest ranks are the surest."""
    centre_x, centre_y = np.average(x, weights=weight), np.average(y, weights=weight)
    slope = np.average((x - centre_x) * (y - centre_y), weights=weight) / np.average(
        (x - centre_x) ** 2, weights=weight
    )
    slope = max(0.0, float(slope))
    return float(centre_y - slope * centre_x), slope
