"""Theorem 1 of Littwin et al. 2020: over training, the kernel of an ensemble changes by O(1 / (m n))."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from collegium.search.plot import BLUE, GREEN, GREY, ORANGE
from collegium.search.progress import Report
from collegium.search.reproduce.reproduction import Reproduction

#: Ensembles trained: every m with every n, each with this many independent starts.
MULTIPLICITIES = (1, 4, 16)
WIDTHS = (16, 64, 256)
STARTS = 8
#: Random inputs on a sphere with random targets, trained by small steps of full-batch gradient descent.
POINTS, INPUTS, STEPS, TIME = 6, 4, 60, 3.0


@dataclass(frozen=True)
class _Weights:
    """Two tanh layers of many independent members, leading dimensions (starts, m)."""

    first: Tensor
    second: Tensor
    last: Tensor

    @property
    def width(self) -> int:
        return self.last.shape[-1]


def theorem1(seed: int, report: Report) -> Reproduction:
    """Train m × n ensembles by gradient flow and fit the power of (m n) with which the kernel's change falls."""
    changes: dict[tuple[int, int], float] = {}
    cells = [(m, n) for n in WIDTHS for m in MULTIPLICITIES]
    for index, (m, n) in enumerate(cells):
        report(index / len(cells), f"training {m}×{n}")
        changes[m, n] = _change(m, n, torch.Generator().manual_seed(seed))
    size = np.log([m * n for m, n in changes])
    slope = float(np.polyfit(size, np.log(list(changes.values())), 1)[0])
    rows = [
        (f"n = {n}", *(f"{changes[m, n]:.5f}" for m in MULTIPLICITIES), *(f"{_power(changes, n):.2f}",)) for n in WIDTHS
    ]
    rows.append(("power of n", *(f"{_power_of_width(changes, m):.2f}" for m in MULTIPLICITIES), f"{slope:.2f}"))
    return Reproduction(
        name="theorem1",
        title="Theorem 1: change of the ensemble's kernel over training",
        claim="For analytic activations and the squared loss, K(t) − K(0) is of order 1 / (m n) at any finite time t.",
        columns=("‖K(t) − K(0)‖ / ‖K(0)‖", *(f"m = {m}" for m in MULTIPLICITIES), "power of m"),
        rows=tuple(rows),
        notes=(
            f"Two tanh layers, {POINTS} points, flow to time {TIME:g} in {STEPS} steps, mean of {STARTS} starts.",
            "Bottom right: the power of m·n over all cells; −1 by the theorem.",
        ),
        agrees=abs(slope + 1) < 0.25,
        figure=_figure(changes),
    )


def _change(m: int, n: int, generator: torch.Generator) -> float:
    """Relative change of K in Frobenius norm, averaged over independent starts."""
    x = torch.randn(POINTS, INPUTS, generator=generator)
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(INPUTS)
    y = torch.randn(POINTS, generator=generator)

    def draw(*shape: int) -> Tensor:
        return torch.randn(STARTS, m, *shape, generator=generator)

    weights = _Weights(draw(n, INPUTS), draw(n, n), draw(n))
    before = _kernel(weights, x)
    for _ in range(STEPS):
        weights = _step(weights, x, y, TIME / STEPS)
    after = _kernel(weights, x)
    change = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    return float(change.mean())


def _passes(weights: _Weights, x: Tensor) -> tuple[Tensor, ...]:
    """Activations a_1, a_2 and gradients δ_1, δ_2 (starts, m, points, n), and the outputs (starts, m, points)."""
    n = weights.width
    first = torch.tanh(x @ weights.first.mT / math.sqrt(INPUTS))
    second = torch.tanh(first @ weights.second.mT / math.sqrt(n))
    outputs = (second @ weights.last[..., None])[..., 0] / math.sqrt(n)
    above = weights.last[..., None, :] / math.sqrt(n) * (1 - second**2)
    below = (above @ weights.second) / math.sqrt(n) * (1 - first**2)
    return first, second, below, above, outputs


def _kernel(weights: _Weights, x: Tensor) -> Tensor:
    """K^e = mean over members of ⟨∂F_j, ∂F_j'⟩ (Eq. 4), shape (starts, points, points)."""
    n = weights.width
    first, second, below, above, _ = _passes(weights, x)
    members = second @ second.mT / n
    members = members + (first @ first.mT / n) * (above @ above.mT)
    members = members + (x @ x.T / INPUTS) * (below @ below.mT)
    return members.mean(1)


def _step(weights: _Weights, x: Tensor, y: Tensor, rate: float) -> _Weights:
    """One step of gradient descent on ½ ‖F^e − y‖² with F^e = m^{-1/2} Σ_j F_j."""
    n, m = weights.width, weights.last.shape[1]
    first, second, below, above, outputs = _passes(weights, x)
    residual = (outputs.sum(1) / math.sqrt(m) - y)[:, None, :, None] / math.sqrt(m)  # (starts, 1, points, 1)
    return _Weights(
        weights.first - rate * (residual * below).mT @ x / math.sqrt(INPUTS),
        weights.second - rate * (residual * above).mT @ first / math.sqrt(n),
        weights.last - rate * (residual * second).sum(2) / math.sqrt(n),
    )


def _power(changes: dict[tuple[int, int], float], n: int) -> float:
    values = [changes[m, n] for m in MULTIPLICITIES]
    return float(np.polyfit(np.log(MULTIPLICITIES), np.log(values), 1)[0])


def _power_of_width(changes: dict[tuple[int, int], float], m: int) -> float:
    return float(np.polyfit(np.log(WIDTHS), np.log([changes[m, n] for n in WIDTHS]), 1)[0])


def _figure(changes: dict[tuple[int, int], float]) -> Figure:
    sheet = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = sheet.add_subplot()
    for n, color in zip(WIDTHS, (ORANGE, GREEN, BLUE), strict=True):
        axes.plot(
            [m * n for m in MULTIPLICITIES],
            [changes[m, n] for m in MULTIPLICITIES],
            "o-",
            color=color,
            label=f"n = {n}",
        )
    size = np.array([min(m * n for m, n in changes), max(m * n for m, n in changes)])
    start = changes[MULTIPLICITIES[0], WIDTHS[0]] * WIDTHS[0] * MULTIPLICITIES[0]
    axes.plot(size, start / size, "--", color=GREY, label="1 / (m n)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("m · n")
    axes.set_ylabel("relative change of the kernel")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return sheet
