"""The law of a dense chain's kernel entry in a handful of random numbers a layer, whatever the widths.

A Gaussian matrix W is used once forwards and once backwards. Forwards z = √(g/f) W a depends on a through |a| alone,
so a rectified layer of n units has k ~ Binomial(n, ½) open ones and |relu(z)|² = g/f |a|² χ²_k. Backwards, given W a,
Wᵀδ is a known part along a (z·δ = F, by homogeneity) plus an independent Gaussian orthogonal to it. The next gate keeps
the k units on which that a lives, so the part along a survives whole and the orthogonal one keeps k − 1 dimensions:

    |δ_l|² = F² / |a_l|² + g/f |δ_{l+1}|² χ²_{k−1}.

Both are exact in law, jointly for all layers: K needs no weights, no activations and no gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseLayer:
    """``width`` units over inputs of which each is weighted with variance ``scale`` = gain / fan-in."""

    width: int
    scale: float
    rectified: bool


@dataclass(frozen=True)
class DenseDraw:
    """Draws for a dense chain on an input a of unit norm, each of shape ``(count,)``, float64.

    ``kernel`` is the part of K from the chain's own weights and scales with |a|². ``output`` is F and scales with |a|.
    ``backward`` is b: the derivative of F by a is F a / |a|² + b ξ with ξ a standard Gaussian orthogonal to a.
    """

    kernel: Tensor
    output: Tensor
    backward: Tensor


def draw_dense(layers: Sequence[DenseLayer], count: int, generator: torch.Generator) -> DenseDraw:
    """``count`` independent draws for ``layers``, the last of which is linear with the one unit F."""
    *hidden, last = layers
    sizes, opens, scattered = [], [], []
    size = torch.ones(count, dtype=torch.float64, device=generator.device)
    for layer in hidden:
        open_units = _open_units(layer, count, generator)
        chi_squared = _chi_squared(torch.stack([open_units, open_units - 1]), generator)
        size = size * layer.scale * chi_squared[0]
        sizes.append(size)
        opens.append(open_units > 0)
        scattered.append(chi_squared[1])
    output = (last.scale * size).sqrt() * torch.randn(
        count, dtype=torch.float64, device=generator.device, generator=generator
    )
    gradient = torch.ones_like(size)
    kernel = last.scale * size
    scale = last.scale
    square = output.square()
    for index in reversed(range(len(hidden))):
        along = square / sizes[index].clamp_min(torch.finfo(torch.float64).tiny)
        gradient = (along + scale * gradient * scattered[index]) * opens[index]
        scale = hidden[index].scale
        below = sizes[index - 1] if index else torch.ones_like(size)
        kernel = kernel + scale * below * gradient
    # a closed layer leaves F = 0, and nothing of K; what a dead layer below would still let through is not F's
    alive = size > 0
    return DenseDraw(kernel * alive, output, (scale * gradient).sqrt() * alive)


def _open_units(layer: DenseLayer, count: int, generator: torch.Generator) -> Tensor:
    """How many units let their input through, shape ``(count,)``."""
    units = torch.full((count,), float(layer.width), dtype=torch.float64, device=generator.device)
    return torch.binomial(units, torch.full_like(units, 0.5), generator=generator) if layer.rectified else units


def _chi_squared(degrees: Tensor, generator: torch.Generator) -> Tensor:
    """Chi-squared draws with ``degrees`` of freedom each; zero where there are none."""
    # torch.distributions takes no generator, hence the function below it
    draws = torch._standard_gamma(  # pyright: ignore[reportPrivateImportUsage]
        degrees.clamp_min(1) / 2, generator=generator
    )
    return draws.mul_(2).mul_(degrees > 0)
