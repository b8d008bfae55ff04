"""Adversarial probabilities, Mazzawi et al. 2024, Appendix D: two gradients a step.

The first gradient, at uniform p, is that of p itself: ∂L/∂p_k = w_k ∘ ∂L/∂w. An ascent step moves p to where the loss
is larger, and the copies are trained there. The second algorithm mixes that p with a random one, the more the closer
the copies have come to each other, which keeps them from becoming equal.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from collegium.train.majority.draw import Draw
from collegium.train.majority.draw import probabilities as random_probabilities
from collegium.train.majority.kernel import MajorityKernel, majority_kernels
from collegium.train.methods.majority import Majority
from collegium.train.methods.method import ComputeLoss, Execution, StepOutput, run_microbatches


class Adversarial(Majority):
    """Algorithm D.1: train under the p that one ascent step from 1/e makes worst.

    ``step_size`` is ε. With ``relative`` (the default) it multiplies ∂L/∂p divided by its root mean square in each
    kernel, so that one ε means the same for kernels of all sizes; without, ∂L/∂p itself, as printed. All elements move
    against the loss together, so ε is small: on digits 0.01 trains as well as plain kernels, 0.1 not at all.
    """

    name = "adversarial"
    is_random = False

    def __init__(self, expansion: int = 3, *, step_size: float = 0.01, relative: bool = True, **options: Any) -> None:
        super().__init__(expansion, **options)
        self.step_size, self.relative = step_size, relative

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Return ``optimizer`` as it is: these p are not those that a fused update draws."""
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
        """Gradient at uniform p over all microbatches, ascent of p, gradient of the copies at that p."""
        self.clock.step = step
        slopes = uniform_gradients(model, batches, compute_loss, execution, weights)
        with overriding({kernel: self._tilted(kernel, slope) for kernel, slope in slopes.items()}):
            return run_microbatches(model, batches, compute_loss, execution, weights)

    def _tilted(self, kernel: MajorityKernel, slope: Tensor) -> "Tilted":
        return Tilted(slope, self.step_size, self.relative, kernel.draw if self.is_random else None)

    def sampled(self, model: nn.Module) -> None:
        """Return ``None``: the weights of a step exist for its batch alone."""


class AdversarialMajority(Adversarial):
    """Algorithm D.2: u ∘ adversarial p + (1 − u) ∘ random p, with u = KL(adversarial p, uniform) / ln e per element.

    Where the ascent does not move p, u = 0, and this is Algorithm 2.1.
    """

    name = "adversarial_majority"
    is_random = True


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


class Tilted:
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
    def forward(ctx: Any, copies: Tensor, tilted: Tilted) -> Tensor:
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
