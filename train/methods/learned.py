"""Learned mixing (Mazzawi et al. 2024, Appendix D, second loss): p is trained with the weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from train.kernel import MajorityKernel
from train.majority import expand
from train.methods.majority import Majority

STEP_SIZE = 1.0


class LearnedKernel(MajorityKernel):
    """A weight Σ_k p_k ∘ w_k whose p = softmax(κ·θ) is a parameter for every weight element, in training and evaluation.

    θ starts at zero, the uniform mixture. κ is ``sharpness``: under Adam it multiplies the rate at which ln p moves.
    """

    sharpness = STEP_SIZE

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Copies of ``weight``; their shape is that of θ."""
        copies = super().right_inverse(weight)
        if not hasattr(self, "theta"):
            self.theta = nn.Parameter(torch.zeros_like(copies))
        return copies

    def forward(self, copies: Tensor) -> Tensor:
        """Return the weight, shape ``copies.shape[1:]``."""
        return (torch.softmax(self.sharpness * self.theta, 0) * copies).sum(0)


class Learned(Majority):
    """min over weights and p of the loss at ⟨w⟩_p; collapsing keeps the mixture that was learned."""

    name = "learned"

    def __init__(self, expansion: int = 3, *, step_size: float = STEP_SIZE, **options: Any) -> None:
        super().__init__(expansion, **options)
        self._step_size = step_size

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Expand the kernels, each with its own p."""

        def kernel(expansion: int, clock: Any, index: int) -> LearnedKernel:
            made = LearnedKernel(expansion, clock, index)
            made.sharpness = self._step_size
            return made

        return expand(
            model,
            self.expansion,
            init=self._initialization,
            include=self._patterns or None,
            correct_scale=self._correct_scale,
            seed=seed,
            kernel=kernel,
        )

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Return ``optimizer`` as it is: p needs its own gradient."""
        return optimizer

    def sampled(self, model: nn.Module) -> None:
        """Return ``None``: training and evaluation use the same mixture."""
        return None
