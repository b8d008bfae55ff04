"""The variance of one member in every stage of a network, absolute and relative to the baseline's there.

A stage's module is the first stage's chain at widths multiplied by the stage's scale (``Network.stage_scales``). An
ensemble is as smooth as the baseline where it is so in every stage, so both problems are solved for the *worst* stage:
the largest ratio of an ensemble's variance to the baseline's. Where members are narrower than the baseline that is the
first stage, the one that Littwin et al. 2020 solve for; where they are wider it is the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collegium.search.curve.source import LogRatios

#: Members with a larger ln r (r = 5·10⁸) are not considered: they are of no use.
LARGEST_LOG_RATIO = 20.0
#: Largest ln r whose variance is still a number.
LARGEST_FINITE = 700.0


@dataclass(frozen=True)
class MemberVariances:
    """``log_ratios``, shape (members, stages): ln r of one member's module in every stage; all of them finite.

    ``baseline``: Var(K_ñ) / m of every stage.
    """

    log_ratios: np.ndarray
    baseline: tuple[float, ...]

    @cached_property
    def by_stage(self) -> np.ndarray:
        """Relative variance of one member, r − 1, shape (members, stages)."""
        return np.expm1(np.minimum(self.log_ratios, LARGEST_FINITE))

    @property
    def first(self) -> np.ndarray:
        """Relative variance of one member in the first stage, shape (members,)."""
        return self.by_stage[:, 0]

    @cached_property
    def worst(self) -> np.ndarray:
        """The members that have the baseline's variance in every stage, real: max over stages of (r − 1) / Var(K_ñ)."""
        return worst_ratio(self.by_stage, self.baseline)


def worst_ratio(by_stage: np.ndarray, baseline: Sequence[float]) -> np.ndarray:
    """The largest ratio of a variance to the baseline's over stages, ``(…, stages)`` → ``(…)``; 1 where both are 0."""
    base = np.asarray(baseline, float)
    some = base > 0
    ratios = np.where(by_stage > 0, by_stage / np.where(some, base, 1e-300), np.where(some, 0.0, 1.0))
    return ratios.max(axis=-1)


def stage_log_ratios(log_ratios: LogRatios, widths: np.ndarray, scales: Sequence[int]) -> np.ndarray:
    """ln r of every member of ``widths``, shape (members, free widths), in every stage, shape (members, stages)."""
    if not len(widths):
        return np.empty((0, len(scales)))
    stacked = np.concatenate([np.asarray(widths, float) * scale for scale in scales])
    return np.asarray(log_ratios(stacked), float).reshape(len(scales), len(widths)).T


def redrawn_log_ratios(
    log_ratios: LogRatios, widths: np.ndarray, scales: Sequence[int], generator: np.random.Generator, draws: int
) -> np.ndarray | None:
    """``stage_log_ratios`` redrawn within the estimate's error, shape (draws, members, stages); None without one."""
    stacked = np.concatenate([np.asarray(widths, float) * scale for scale in scales])
    redrawn = log_ratios.redraw(stacked, generator, draws)
    return None if redrawn is None else redrawn.reshape(draws, len(scales), len(widths)).transpose(0, 2, 1)


def baseline_variances(log_ratios: np.ndarray, multiplicity: int) -> tuple[float, ...]:
    """Var(K_ñ) / m of every stage, from ln r of the baseline's member there."""
    return tuple(math.expm1(min(float(value), LARGEST_FINITE)) / multiplicity for value in log_ratios)
