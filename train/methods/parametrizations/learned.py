"""The kernel of learned probabilities, Mazzawi et al. 2024, Appendix D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from collegium.train.majority.clock import Clock
from collegium.train.majority.kernel import MajorityKernel


class LearnedKernel(MajorityKernel):
    """A kernel whose p is a parameter of its own, softmax(``rate`` · ``logits``) over the copies, uniform at first."""

    logits: nn.Parameter
    random = False

    def __init__(self, expansion: int, clock: Clock, index: int, rate: float = 1.0) -> None:
        super().__init__(expansion, clock, index)
        self.rate = rate

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Copies that mix to ``weight`` whatever p is; the first call makes p uniform."""
        copies = super().right_inverse(weight)
        if not hasattr(self, "logits"):
            self.logits = nn.Parameter(torch.zeros_like(copies))
        return copies

    def average(self, copies: Tensor) -> Tensor:
        """Return Σ_k p_k ∘ copies_k, in training and in evaluation."""
        return (torch.softmax(self.rate * self.logits, 0) * copies).sum(0)

    compiled = average

    def read(self, copies: Tensor, samples: bool) -> Tensor:
        """The same, which is never sampled."""
        return self.average(copies)
