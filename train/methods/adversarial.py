"""Adversarial probabilities, Mazzawi et al. 2024, Appendix D: p goes to where the loss is larger.

One gradient at uniform p gives the ascent step of p, a second one trains the copies at the p it leads to. The second
algorithm mixes that p with a random one, the more the closer the copies have come to each other, which keeps them from
becoming equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from collegium.train.methods.majority import Majority, MajorityOptions
from collegium.train.methods.step import ComputeLoss, Execution, StepOutput, repeated_randomness, run_microbatches

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from collegium.train.majority.kernel import MajorityKernel
    from collegium.train.methods.parametrizations.adversarial import TiltedWeight


class AdversarialOptions(MajorityOptions):
    """Those of majority kernels, and the ascent step of p.

    With ``relative``, ``step_size`` means the same for kernels of all sizes. All elements move against the loss
    together, so it is small: on digits 0.01 trains as well as plain kernels, 0.1 not at all.
    """

    separates: ClassVar[bool] = False
    step_size: Annotated[float, Field(gt=0, le=1e6)] = Field(0.01, description="ε of the ascent step of p")
    relative: bool = Field(
        True, description="divide ∂L/∂p by its root mean square in each kernel; otherwise take it as printed"
    )


class Adversarial(Majority):
    """Algorithm D.1: train under the p that one ascent step from 1/e makes worst."""

    name = "adversarial"
    summary = "majority kernels under the mixture that one ascent step makes worst; two gradients a step"
    Options = AdversarialOptions
    is_random = False

    @property
    def kept_models(self) -> int:
        """The kernels at uniform p with their gradients, then the mixed kernels with the slopes."""
        return 2

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """``optimizer`` as it is: these p are not those that a fused update draws."""
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
        from collegium.train.methods.parametrizations.adversarial import overriding, uniform_gradients

        self.clock.set_step(step)
        repeat = repeated_randomness()
        slopes = uniform_gradients(model, batches, compute_loss, execution, weights)
        repeat()
        with overriding({kernel: self._tilted(kernel, slope) for kernel, slope in slopes.items()}):
            return run_microbatches(model, batches, compute_loss, execution, weights)

    def _tilted(self, kernel: MajorityKernel, slope: Tensor) -> TiltedWeight:
        from collegium.train.methods.parametrizations.adversarial import TiltedWeight

        draw = kernel.draw if self.is_random else None
        return TiltedWeight(slope, self.options.step_size, self.options.relative, draw)

    def sampled(self, model: nn.Module) -> None:
        """``None``: the weights of a step exist for its batch alone."""


class AdversarialMajorityOptions(AdversarialOptions):
    """Those of the adversarial method."""

    separates: ClassVar[bool] = True


class AdversarialMajority(Adversarial):
    """Algorithm D.2: u ∘ adversarial p + (1 − u) ∘ random p, with u = KL(adversarial p, uniform) / ln e per element.

    Where the ascent does not move p, u = 0, and this is Algorithm 2.1.
    """

    name = "adversarial_majority"
    summary = "adversarial mixtures, mixed with random ones where the copies are close; two gradients a step"
    Options = AdversarialMajorityOptions
    is_random = True
