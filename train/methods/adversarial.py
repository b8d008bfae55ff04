"""Adversarial mixing (Mazzawi et al. 2024, Appendix D): p moves up the loss before the kernels move down it.

The gradient of p_k is w_k ∘ g, with g the gradient of the mixed weight, so that one pass at the uniform mixture gives
both. ε is given relative to the root mean square of that gradient within a kernel: the paper leaves its size open,
and a scale-free ε means the same for every layer, loss and stage of training.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from train.fused import majority_copies
from train.kernel import MajorityKernel
from train.majority import set_step
from train.method import ComputeLoss, Execution, StepOutput, run_microbatches
from train.methods.majority import Majority
from train.simplex import probabilities

STEP_SIZE = 0.1


class Adversarial(Majority):
    """Algorithm D.1: p ← Normalize(1/e + ε · ∂L/∂p), and then the gradient of the copies at that p.

    Normalize clips to non-negative entries and divides by their sum. Costs two gradients a step.
    """

    name = "adversarial"

    def __init__(self, expansion: int = 3, *, step_size: float = STEP_SIZE, **options: Any) -> None:
        super().__init__(expansion, **options)
        self._step_size = step_size

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Return ``optimizer`` as it is: the fused update knows only random p."""
        return optimizer

    def step(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        compute_loss: ComputeLoss,
        *,
        step: int,
        execution: Execution = Execution(),
        weights: Sequence[float] | None = None,
    ) -> StepOutput:
        """Two passes: at the uniform mixture for the gradient of p, then at the adversary's mixture."""
        set_step(model, step)
        shares = list(weights) if weights is not None else [1.0 / len(batches)] * len(batches)
        gradients = _mean_gradients(model, batches, compute_loss, shares, execution)
        for parameter in model.parameters():
            parameter.grad = None
        with _overridden(model, lambda kernel, copies: _mixture(self._p(kernel, copies, gradients[kernel]))):
            return run_microbatches(model, batches, compute_loss, execution, weights)

    def _p(self, kernel: MajorityKernel, copies: Tensor, gradient: Tensor) -> Tensor:
        return adversarial_p(copies.detach(), gradient, self._step_size)


class AdversarialMajority(Adversarial):
    """Algorithm D.2: the adversary's p is mixed with a random one, more random the closer it is to uniform.

    p ← u·p + (1 − u)·random, with u = KL(p, uniform) / ln e for each weight element.
    """

    name = "adversarial_majority"

    def _p(self, kernel: MajorityKernel, copies: Tensor, gradient: Tensor) -> Tensor:
        p = super()._p(kernel, copies, gradient)
        random = probabilities(kernel.draw, self.expansion, p.shape[1:], p.device).to(p.dtype)
        return randomized(p, random)


def adversarial_p(copies: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """Normalize(1/e + ε·ĝ), shape ``(expansion, …)``, where ĝ is copies ∘ gradient over its root mean square."""
    expansion = len(copies)
    ascent = copies * gradient
    # Only differences between the copies matter: what they share, the normalization would remove again.
    ascent = ascent - ascent.mean(0)
    scale = ascent.square().mean().sqrt()
    p = (1 / expansion + step_size * ascent / scale.clamp_min(torch.finfo(scale.dtype).tiny)).clamp_min(0)
    return p / p.sum(0)


def randomized(p: Tensor, random: Tensor) -> Tensor:
    """u·p + (1 − u)·random with u = KL(p, uniform) / ln e, element by element; both have shape ``(expansion, …)``."""
    expansion = len(p)
    if expansion == 1:
        return p
    divergence = torch.xlogy(p, p * expansion).sum(0)
    u = (divergence / math.log(expansion)).clamp(0, 1)
    return u * p + (1 - u) * random


def _mixture(p: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda copies: (p * copies).sum(0)


@contextmanager
def _overridden(model: nn.Module, weight: Callable[[MajorityKernel, Tensor], Callable[[Tensor], Tensor]]) -> Any:
    """Context in which each kernel reads as the function of its copies that ``weight`` gives for it."""
    found = majority_copies(model)
    try:
        for kernel, copies in found:
            kernel.override = weight(kernel, copies)
        yield
    finally:
        for kernel, _ in found:
            kernel.override = None


def _mean_gradients(
    model: nn.Module,
    batches: Sequence[Any],
    compute_loss: ComputeLoss,
    shares: Sequence[float],
    execution: Execution,
) -> dict[MajorityKernel, Tensor]:
    """Gradient of the loss by each mixed weight, at the mean of the copies; the same in every process."""
    leaves: dict[MajorityKernel, Tensor] = {}

    def leaf(kernel: MajorityKernel, copies: Tensor) -> Callable[[Tensor], Tensor]:
        leaves[kernel] = copies.detach().mean(0).requires_grad_()
        return lambda _: leaves[kernel]

    with _overridden(model, leaf), _unreduced(execution, model):
        for batch, share in zip(batches, shares, strict=True):
            loss, _ = compute_loss(model, batch)
            execution.backward(loss * share)
    gradients = {kernel: _gradient(weight) for kernel, weight in leaves.items()}
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        for gradient in gradients.values():
            distributed.all_reduce(gradient)
    return gradients


def _gradient(weight: Tensor) -> Tensor:
    # A kernel that took no part in the pass has no gradient: its adversary stays at the uniform mixture.
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _unreduced(execution: Execution, model: nn.Module) -> AbstractContextManager[Any]:
    return execution.no_sync(model)
