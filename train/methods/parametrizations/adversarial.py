"""The weights of adversarial majority kernels, Mazzawi et al. 2024, Appendix D: two gradients a step.

The first gradient, at uniform p, is that of p itself: ∂L/∂p_k = w_k ∘ ∂L/∂w. An ascent step moves p to where the loss
is larger; the weights of the step are the copies mixed by that p.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from collegium.train.majority.draw import Draw
from collegium.train.majority.draw import probabilities as random_probabilities
from collegium.train.majority.kernel import MajorityKernel, majority_kernels
from collegium.train.methods.step import ComputeLoss, Execution, run_microbatches


def adversarial_probabilities(copies: Tensor, slope: Tensor, step_size: float, *, relative: bool = True) -> Tensor:
    """p of Algorithm D.1, shape of ``copies``: normalise(1/e + ε w_k ∘ ∂L/∂w); ``slope`` is ∂L/∂w at uniform p.

    Normalising clips at zero and divides by the sum over the copies.
    """
    ascent = copies * slope
    if relative:
        ascent = ascent / ascent.square().mean().sqrt().clamp_min(torch.finfo(ascent.dtype).tiny)
    p = (1 / len(copies) + step_size * ascent).clamp_min_(0)
    total = p.sum(0)
    return torch.where(total > 0, p / total, 1 / len(copies))


def divergence_from_uniform(p: Tensor) -> Tensor:
    """u = KL(p, uniform) / ln e per element, in [0, 1]: 0 for uniform p, 1 for a vertex of the simplex."""
    if len(p) == 1:
        return torch.zeros_like(p[0])
    return (1 + torch.xlogy(p, p).sum(0) / math.log(len(p))).clamp_(0, 1)


class TiltedWeight:
    """The mixed weight of one kernel in one step; p is computed again from ``slope`` whenever it is needed."""

    def __init__(self, slope: Tensor, step_size: float, relative: bool, draw: Draw | None) -> None:
        self.slope, self.step_size, self.relative, self.draw = slope, step_size, relative, draw
        self._weight: Tensor | None = None

    def __call__(self, copies: Tensor) -> Tensor:
        """Return Σ_k p_k ∘ copies_k; all reads within the step give one tensor."""
        if self._weight is None:
            self._weight = _Mix.apply(copies, self)
        assert self._weight is not None
        return self._weight

    def probabilities(self, copies: Tensor) -> Tensor:
        """p, shape of ``copies``."""
        p = adversarial_probabilities(copies.detach(), self.slope, self.step_size, relative=self.relative)
        if self.draw is None:
            return p
        u = divergence_from_uniform(p)
        noise = random_probabilities(self.draw, len(copies), copies.shape[1:], copies.device).to(p.dtype)
        return u * p + (1 - u) * noise


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, copies: Tensor, tilted: TiltedWeight) -> Tensor:
        ctx.copies, ctx.tilted = copies, tilted  # not saved: several microbatches go backward through this node
        return (tilted.probabilities(copies) * copies).sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.tilted.probabilities(ctx.copies) * gradient, None


def uniform_gradients(
    model: nn.Module,
    batches: Sequence[Any],
    compute_loss: ComputeLoss,
    execution: Execution,
    weights: Sequence[float] | None,
) -> dict[MajorityKernel, Tensor]:
    """∂L/∂w of every kernel at the mean of its copies, averaged over processes; leaves all other state untouched.

    Random layers (dropout) see the numbers that the second pass will see; batch norms keep their statistics.
    """
    leaves: dict[MajorityKernel, Tensor] = {}

    def mean_leaf(kernel: MajorityKernel) -> Any:
        def read(copies: Tensor) -> Tensor:
            if kernel not in leaves:
                leaves[kernel] = copies.detach().mean(0).requires_grad_()
            return leaves[kernel]

        return read

    means = {kernel: mean_leaf(kernel) for kernel in majority_kernels(model).values()}
    with _untouched(model), execution.no_sync(model), overriding(means):
        run_microbatches(model, batches, compute_loss, execution, weights)
    slopes = {kernel: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for kernel, leaf in leaves.items()}
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for slope in slopes.values():
            torch.distributed.all_reduce(slope)
            slope /= torch.distributed.get_world_size()
    return slopes


@contextmanager
def overriding(overrides: dict[MajorityKernel, Any]) -> Iterator[None]:
    """Context in which each kernel's weight is what its override makes of the copies."""
    try:
        for kernel, override in overrides.items():
            kernel.override = override
        yield
    finally:
        for kernel in overrides:
            kernel.override = None


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    devices = {parameter.device for parameter, _ in gradients if parameter.device.type == "cuda"}
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        for norm in norms:
            norm.track_running_stats = False
        with torch.random.fork_rng(devices):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for norm in norms:
            norm.track_running_stats = True
