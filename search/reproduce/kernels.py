"""Figure 2 and Lemma 1 of Littwin et al. 2020: the kernel of an ensemble converges to its mean as m grows."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from collegium.search.kernel.closed_form import log_moment_ratio, mean
from collegium.search.kernel.inputs import KernelInputs
from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.chain import Chain
from collegium.search.networks.families.mlp import mlp_chain
from collegium.search.plot import BLUE, GREEN, GREY, ORANGE, RED
from collegium.search.progress import Report, scaled
from collegium.search.reproduce.reproduction import Reproduction
from collegium.search.sampling.sampler import build_sampler

#: Figure 2: 4 weight layers of width 1000, inputs (cos γ, sin γ).
WIDTH, HIDDEN, MEMBERS = 1000, 3, 300
ENSEMBLES = (1, 10, 100)
#: Lemma 1: two shapes of member, and how often each ensemble is drawn.
SHAPES = ((8, 8), (48,) * 5)
SIZES = (1, 10, 100, 1_000, 10_000)
MOST_DRAWS, MOST_KERNELS = 400, 1_000_000


def figure2(seed: int, report: Report) -> Reproduction:
    """K(x_0, x_γ) over the circle for ensembles of 1, 10 and 100 members, and its infinite-width limit."""
    angles = torch.linspace(-math.pi, math.pi, 33)
    generator = torch.Generator().manual_seed(seed)
    wide = _circle_kernels(WIDTH, MEMBERS, angles, generator, scaled(report, 0.0, 0.9))
    narrow = _circle_kernels(WIDTH // 10, MEMBERS, angles, generator, scaled(report, 0.9, 1.0))
    limit = _limit(angles.double().numpy())
    chain = mlp_chain(2, HIDDEN, 1)
    single = math.sqrt(math.expm1(log_moment_ratio(chain, (WIDTH,) * HIDDEN)))
    rows, spreads = [], {}
    for members in ENSEMBLES:
        ensembles = wide.unflatten(0, (-1, members)).mean(1)
        centre = ensembles[:, len(angles) // 2]
        spreads[members] = float((centre / limit[len(limit) // 2] - 1).square().mean().sqrt())
        rows.append(
            (
                f"m = {members}",
                *(f"{value:.3f}" for value in ensembles[0, 16::4].tolist()),
                f"{spreads[members]:.4f}",
                f"{single / math.sqrt(members):.4f}",
            )
        )
    rows.append(("infinite width", *(f"{value:.3f}" for value in limit[16::4]), "", ""))
    rows.append((f"mean, n = {WIDTH // 10}", *(f"{value:.3f}" for value in narrow.mean(0)[16::4].tolist()), "", ""))
    agrees = all(abs(spreads[m] / (single / math.sqrt(m)) - 1) < 4 / math.sqrt(2 * MEMBERS / m) for m in ENSEMBLES)
    return Reproduction(
        name="figure2",
        title=f"Figure 2: kernel of ensembles on the circle, {HIDDEN + 1} layers, n = {WIDTH}",
        claim="The kernel of the ensemble becomes smooth as m grows, and its mean does not depend on the width.",
        columns=("one ensemble's K(x_0, x_γ)", "γ = 0", "π/4", "π/2", "3π/4", "π", "spread at γ = 0", "√((r − 1) / m)"),
        rows=tuple(rows),
        notes=(
            f"Spread: root mean square of K/K∞ − 1 over {MEMBERS} members; next to it the closed form.",
            "Infinite width: by the arc-cosine kernels, in place of the paper's network a hundred times wider.",
        ),
        agrees=agrees,
        figure=_circle_figure(angles.numpy(), wide, limit),
    )


def lemma1(seed: int, report: Report) -> Reproduction:
    """Root mean square of K^e / E[K] − 1 against m, measured and by √((r − 1) / m)."""
    rows, lines, agrees = [], [], True
    for index, widths in enumerate(SHAPES):
        chain = mlp_chain(784, len(widths), 1)
        predicted = math.sqrt(math.expm1(log_moment_ratio(chain, widths)))
        measured = []
        for step, members in enumerate(SIZES):
            report((index + step / len(SIZES)) / len(SHAPES), f"drawing {members} members of {list(widths)}")
            found = _deviation(chain, widths, members, seed)
            expected = predicted / math.sqrt(members)
            measured.append(found)
            agrees = agrees and (members == 1 or abs(found / expected - 1) < 4 / math.sqrt(2 * _draws(members)))
            rows.append((str(list(widths)), f"{members:,}", f"{found:.4f}", f"{expected:.4f}"))
        lines.append((str(list(widths)), measured, predicted))
    return Reproduction(
        name="lemma1",
        title="Lemma 1: the ensemble's kernel tends to the mean kernel",
        claim="K^e → E[K] almost surely as m → ∞.",
        columns=("member", "m", "measured deviation", "√((r − 1) / m)"),
        rows=tuple(rows),
        notes=(
            f"Deviation: root mean square of K^e / E[K] − 1 over {_draws(1)} ensembles ({_draws(SIZES[-1])} of the "
            "largest); E[K] and r by the closed form.",
            "At m = 1 a few hundred kernels estimate their spread poorly: the tail is heavy.",
        ),
        agrees=agrees,
        figure=_lemma_figure(lines),
    )


def _deviation(chain: Chain, widths: tuple[int, ...], members: int, seed: int) -> float:
    sampler = build_sampler(KernelPoint.of(chain, widths, "unit", KernelInputs()))
    generator = torch.Generator().manual_seed(seed)
    truth = mean(chain, widths)
    part, draws = max(1, 200_000 // members), _draws(members)
    kernels = [
        sampler.draw(min(part, draws - start) * members, generator).double().unflatten(0, (-1, members)).mean(1)
        for start in range(0, draws, part)
    ]
    return float((torch.cat(kernels) / truth - 1).square().mean().sqrt())


def _draws(members: int) -> int:
    return min(MOST_DRAWS, MOST_KERNELS // members)


def _circle_kernels(width: int, members: int, angles: Tensor, generator: torch.Generator, report: Report) -> Tensor:
    """K(x_0, x_γ) of independent members, shape (members, angles), in the NTK parameterization."""
    x = torch.stack([angles.cos(), angles.sin()], dim=1)  # (angles, 2)
    centre = len(angles) // 2
    kernels = []
    for member in range(members):
        if member % 10 == 0:
            report(member / members, f"drawing kernels of width {width}")
        kernels.append(_circle_kernel(x, width, centre, generator))
    return torch.stack(kernels)


def _circle_kernel(x: Tensor, width: int, centre: int, generator: torch.Generator) -> Tensor:
    """One member's ⟨∂F(x_0), ∂F(x_γ)⟩: a sum over layers of gain · ⟨a, a'⟩ ⟨δ, δ'⟩."""
    activations, weights = [x], []
    for _ in range(HIDDEN):
        fan_in = activations[-1].shape[1]
        weights.append(torch.randn(width, fan_in, generator=generator) * math.sqrt(2 / fan_in))
        activations.append((activations[-1] @ weights[-1].T).relu_())
    delta = torch.randn(width, generator=generator) / math.sqrt(width)
    kernel = activations[-1] @ activations[-1][centre] / width
    delta = delta * (activations[-1] > 0)
    for layer in reversed(range(HIDDEN)):
        below = activations[layer]
        kernel = kernel + 2 / below.shape[1] * (below @ below[centre]) * (delta @ delta[centre])
        if layer:
            delta = (delta @ weights[layer]) * (below > 0)
    return kernel


def _limit(angles: np.ndarray) -> np.ndarray:
    """The infinite-width kernel: arc-cosine kernels of degree 0 and 1, layer by layer (Jacot et al. 2018)."""
    cosine = np.cos(angles)
    covariance, tangent = cosine.copy(), cosine.copy()  # (2 / n_0) x·x' with n_0 = 2
    for _ in range(HIDDEN):
        theta = np.arccos(np.clip(covariance, -1, 1))
        gate = (np.pi - theta) / np.pi
        covariance = (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / np.pi
        tangent = covariance + tangent * gate
    return tangent / 2


def _circle_figure(angles: np.ndarray, kernels: Tensor, limit: np.ndarray) -> Figure:
    sheet = Figure(figsize=(11, 4), layout="constrained")
    for index, (members, color) in enumerate(zip(ENSEMBLES, (ORANGE, GREEN, BLUE), strict=True)):
        axes = sheet.add_subplot(1, len(ENSEMBLES), index + 1)
        for ensemble in kernels.unflatten(0, (-1, members)).mean(1)[:20].numpy():
            axes.plot(angles, ensemble, color=color, alpha=0.5, linewidth=0.8)
        axes.plot(angles, limit, color="black", linewidth=1.2, label="infinite width")
        axes.set_title(f"m = {members}", fontsize=10)
        axes.set_xlabel("γ")
        axes.set_ylim(0, 1.25 * float(limit.max()))
        axes.legend(fontsize=8)
    return sheet


def _lemma_figure(lines: list[tuple[str, list[float], float]]) -> Figure:
    sheet = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = sheet.add_subplot()
    for (label, measured, predicted), color in zip(lines, (BLUE, RED), strict=True):
        axes.plot(SIZES, measured, "o", color=color, label=f"measured, {label}")
        axes.plot(SIZES, [predicted / math.sqrt(m) for m in SIZES], color=GREY, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("members m")
    axes.set_ylabel("deviation of K^e from E[K]; line: closed form")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return sheet
