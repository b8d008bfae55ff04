"""Learned probabilities, the second loss of Mazzawi et al. 2024, Appendix D: min over the copies and over p."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from collegium.train.majority.clock import Clock
from collegium.train.majority.kernel import MajorityKernel
from collegium.train.methods.majority import Majority


class LearnedKernel(MajorityKernel):
    """A kernel whose p is a parameter of its own, softmax(``rate`` · ``logits``) over the copies, uniform at first."""

    logits: nn.Parameter

    def __init__(self, expansion: int, clock: Clock, index: int, rate: float = 1.0) -> None:
        super().__init__(expansion, clock, index)
        self.rate = rate

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Copies that mix to ``weight`` whatever p is; the first call makes p uniform."""
        copies = super().right_inverse(weight)
        if not hasattr(self, "logits"):
            self.logits = nn.Parameter(torch.zeros_like(copies))
        return copies

    def forward(self, copies: Tensor) -> Tensor:
        """Return Σ_k p_k ∘ copies_k, in training and in evaluation."""
        return (torch.softmax(self.rate * self.logits, 0) * copies).sum(0)


class Learned(Majority):
    """p trained with the weights, by the same optimizer; the mixture under the final p is the answer.

    ``step_size`` scales how fast p moves: in proportion under Adam, with its square under SGD.
    """

    name = "learned"

    def __init__(self, expansion: int = 3, *, step_size: float = 1.0, **options: Any) -> None:
        super().__init__(expansion, **options)
        self.step_size = step_size

    def _make_kernel(self, expansion: int, clock: Clock, index: int) -> MajorityKernel:
        return LearnedKernel(expansion, clock, index, self.step_size)

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Return ``optimizer`` as it is."""
        return optimizer

    def sampled(self, model: nn.Module) -> None:
        """Return ``None``: training and evaluation use the same weights."""
