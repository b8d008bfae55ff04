"""How the copies of a kernel begin: their mean, how far they are apart, and what variance that gives the weight.

Let a weight's entries have variance σ² (its mean square; layers begin around zero). The copies w_1 … w_e of it are

    perturbed      w_k = w + s·d_k          Σ_k d_k = 0, d_k Gaussian of variance σ²: the mean is w itself
    replicated     w_k = w                  perturbed with s = 0
    independent    w_k a shuffle of w       Mazzawi et al. 2024: the mean is not w, and is smaller by √e

and the weight that a layer reads has, with p of the flat Dirichlet law (E p_k² = 2/(e(e+1)), E p_j p_k = 1/(e(e+1))),

    ==============  ==========================  ==============  ==========================
    start           variance in training        in evaluation   spread, |w_k − w̄| / |w̄|
    ==============  ==========================  ==============  ==========================
    perturbed       (1 + s²/(e + 1))·σ²         σ²              s
    replicated      σ²                          σ²              0
    independent     2/(e + 1)·σ²                σ²/e            √(e − 1)
    ==============  ==========================  ==============  ==========================

The spread is what sampling does to the network: the relative variance that p adds to each weight is s²/(e + 1), 1/2 for
three independent copies, in every layer. It regularizes, and it slows training down (``docs/majority.md`` has
measurements); the default is small, so that training keeps the pace of the plain network, and copies move apart by
themselves from there, because each has its own share of every gradient. That share also is why a plain step of SGD
moves the mean by 1/e of what it moves a single weight by, and Adam's by as much.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Named = Literal["perturbed", "independent", "replicated"]
Init = Named | Callable[[Tensor, int, torch.Generator], Tensor]
Correction = Literal[False, "training", "evaluation"] | bool
SPREAD = 0.1


def checked_start(init: Init, spread: float | None, correct: Correction) -> float:
    """The spread of perturbed copies, 0 for other starts. Raises ``ValueError`` for arguments that do not fit."""
    if init not in get_args(Named) and not callable(init):
        raise ValueError(f"init must be {', '.join(map(repr, get_args(Named)))} or a function, not {init!r}")
    if correct not in (False, True, "training", "evaluation"):
        raise ValueError(f"correct_scale must be False, True, 'training' or 'evaluation', not {correct!r}")
    if correct and (init == "replicated" or (init == "perturbed" and spread == 0)):
        raise ValueError("replicated copies keep the weight's variance: there is no scale to correct")
    if init != "perturbed":
        if spread is not None:
            raise ValueError(f"spread belongs to init='perturbed': leave it out with {init!r}")
        return 0.0
    if spread is None:
        return SPREAD
    if isinstance(spread, bool) or not isinstance(spread, (int, float)) or not 0 <= spread < math.inf:
        raise ValueError(f"spread must be a number of at least 0, not {spread!r}")
    return float(spread)


def scale_factor(init: Init, expansion: int, spread: float, correct: Correction) -> float:
    """What the copies are multiplied by so that the weight has the variance σ², in training or in evaluation.

    >>> scale_factor("independent", 3, 0.0, "training") ** 2
    2.0
    >>> round(scale_factor("perturbed", 3, 2.0, "training") ** -2, 12)
    2.0
    """
    if correct is False:
        return 1.0
    training = correct in (True, "training")
    if init == "perturbed":
        return 1 / math.sqrt(1 + spread**2 / (expansion + 1)) if training and expansion > 1 else 1.0
    return math.sqrt((expansion + 1) / 2) if training else math.sqrt(expansion)


def start_generator(seed: int) -> torch.Generator:
    """The generator of a start. A model that was made under the same seed has used other numbers.

    >>> torch.equal(torch.randn(3, generator=start_generator(0)), torch.randn(3, generator=torch.manual_seed(0)))
    False
    """
    digest = hashlib.blake2b(f"start of copies {seed}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def initialize(copies: Tensor, init: Init, spread: float, generator: torch.Generator) -> None:
    """Give ``copies``, of shape ``(e, *weight.shape)`` and all equal to the weight, their start, in place."""
    if init == "replicated":
        return
    if init == "perturbed":
        _perturb(copies, spread, generator)
        return
    for k in range(1, len(copies)):
        if init == "independent":
            order = torch.randperm(copies[0].numel(), generator=generator, device="cpu").to(copies.device)
            copies[k].copy_(copies[0].reshape(-1)[order].view_as(copies[0]))
        else:
            made = init(copies[0].clone(), k, generator)
            if not isinstance(made, Tensor) or made.shape != copies[0].shape:
                raise ValueError(f"init must return a tensor of shape {tuple(copies[0].shape)}, not {made!r:.80}")
            copies[k].copy_(made)


def _perturb(copies: Tensor, spread: float, generator: torch.Generator) -> None:
    """Deviations of mean square σ² a copy that sum to zero: e Gaussians less their mean, of variance 1 − 1/e each."""
    expansion = len(copies)
    if expansion == 1 or spread == 0:
        return
    weight = copies[0] if copies.dtype == torch.float64 else copies[0].float()
    size = weight.square().mean().sqrt() * (spread * math.sqrt(expansion / (expansion - 1)))
    rows = [torch.randn(weight.shape, generator=generator, device="cpu") for _ in range(expansion)]
    noise = torch.stack(rows).to(weight)
    copies.copy_(weight + size * (noise - noise.mean(0)))
