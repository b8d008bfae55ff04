"""Sharpness-aware minimization (Foret et al. 2021): the gradient at the worst point near by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from collegium.train.methods.method import Method, MethodOptions
from collegium.train.methods.step import ComputeLoss, Execution, StepOutput, repeated_randomness, run_microbatches

if TYPE_CHECKING:
    from torch import nn


class SamOptions(MethodOptions):
    """How far away the worst point is looked for."""

    rho: Annotated[float, Field(gt=0, le=1000)] = Field(
        0.05, description="ρ, radius of the ball around the weights in which the loss is made small"
    )


class Sam(Method):
    """min_θ max_{‖ε‖₂ ≤ ρ} L(θ + ε), by its first order: the optimizer gets ∇L(θ + ε̂), ε̂ = ρ ∇L(θ) / ‖∇L(θ)‖₂.

    Foret et al. 2021, Eq. 2 and Algorithm 1, with p = 2. Both gradients are those of the whole batch: of all its
    microbatches and in all processes, before clipping. The second pass sees the dropout of the first, and leaves the
    statistics of batch norms as they are. The loss that is reported is L(θ + ε̂).
    """

    name = "sam"
    summary = "sharpness-aware minimization: the gradient at the worst point near by; two gradients a step"
    Options = SamOptions
    renews_norms = False

    @property
    def kept_models(self) -> int:
        """The weights, while the model is at the worst point."""
        return 1

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
        """Gradient at θ, the move to θ + ε̂, gradient there, and back to θ exactly."""
        repeat = repeated_randomness()
        run_microbatches(model, batches, compute_loss, execution, weights)  # ∇L(θ)
        with _displaced(model, self.options.rho), _kept_statistics(model):  # θ + ε̂
            repeat()
            return run_microbatches(model, batches, compute_loss, execution, weights)  # ∇L(θ + ε̂)


@contextmanager
def _displaced(model: nn.Module, rho: float) -> Iterator[None]:
    """Context in which the weights are θ + ρ g / ‖g‖₂ for the gradient g, which is taken away."""
    import torch

    moved = [(parameter, parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.float().norm() for _, gradient in moved]).norm()
    scale = rho / norm.clamp(min=torch.finfo(norm.dtype).tiny)  # where ∇L = 0, so is ε̂
    at = [parameter.detach().clone() for parameter, _ in moved]
    for parameter, gradient in moved:
        parameter.data.add_(gradient * scale)
        parameter.grad = None
    try:
        yield
    finally:
        for (parameter, _), before in zip(moved, at, strict=True):
            parameter.data.copy_(before)


@contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """Context in which batch norms in training mode normalize by their batch, and record nothing."""
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    tracking = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, before in zip(norms, tracking, strict=True):
            norm.track_running_stats = before
