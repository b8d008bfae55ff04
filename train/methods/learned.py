"""Learned probabilities, the second loss of Mazzawi et al. 2024, Appendix D: min over the copies and over p."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from collegium.train.methods.majority import Majority, MajorityOptions

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from collegium.train.majority.clock import Clock
    from collegium.train.majority.kernel import MajorityKernel


class LearnedOptions(MajorityOptions):
    """Those of majority kernels, and the rate of p."""

    separates: ClassVar[bool] = False
    step_size: Annotated[float, Field(gt=0, le=1e6)] = Field(
        1.0, description="rate at which p moves: in proportion under Adam, with its square under SGD"
    )


class Learned(Majority):
    """p is trained with the weights, by the same optimizer; the mixture under the final p is the trained kernel."""

    name = "learned"
    summary = "copies of each kernel, mixed by probabilities that are trained with them"
    Options = LearnedOptions

    @property
    def trained_copies(self) -> int:
        """The copies, and the logits of as many probabilities."""
        return 2 * self.expansion

    def _make_kernel(self, expansion: int, clock: Clock, index: int) -> MajorityKernel:
        from collegium.train.methods.parametrizations.learned import LearnedKernel

        return LearnedKernel(expansion, clock, index, self.options.step_size)

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """``optimizer`` as it is: p is not drawn."""
        return optimizer

    def sampled(self, model: nn.Module) -> None:
        """``None``: training and evaluation use the same weights."""
