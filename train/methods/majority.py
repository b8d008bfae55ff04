"""Majority kernels (Mazzawi et al. 2024, Algorithm 2.1)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from train.fused import fuse
from train.kernel import mixing
from train.majority import collapse, expand, set_step
from train.method import ComputeLoss, Execution, StepOutput
from train.methods.vanilla import Vanilla

#: A step that no training reaches, so that an evaluation of sampled weights repeats itself.
EVALUATION_STEP = -1


class Majority(Vanilla):
    """Each step mixes e copies of every kernel with a fresh p, uniform on the simplex; the answer is their mean.

    ``initialization`` is that of the copies (``independent`` from scratch, ``replicated`` from pretrained weights),
    ``correct_scale`` gives independent copies the variance of one kernel in training, and ``patterns`` restricts the
    expansion to modules or parameters whose names match one of them.
    """

    name = "majority"

    def __init__(
        self,
        expansion: int = 3,
        *,
        initialization: Literal["independent", "replicated"] = "independent",
        correct_scale: bool = False,
        patterns: Sequence[str] = (),
    ) -> None:
        super().__init__(expansion)
        self._initialization: Literal["independent", "replicated"] = initialization
        self._correct_scale = correct_scale
        self._patterns = tuple(patterns)

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Expand the kernels, in place; ``seed`` determines the copies and every p."""
        return expand(
            model,
            self.expansion,
            init=self._initialization,
            include=self._patterns or None,
            correct_scale=self._correct_scale,
            seed=seed,
        )

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Fuse the gradients of the copies with the update, where that pays."""
        return fuse(optimizer, model)

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
        """Forward and backward at the weights that this step's p mixes; the same p for all microbatches."""
        set_step(model, step)
        return super().step(model, batches, compute_loss, step=step, execution=execution, weights=weights)

    def sampled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Context in which evaluation sees one draw of mixed weights, each time another."""
        self._draws = getattr(self, "_draws", 0) + 1
        return mixing(model, "sample", step=EVALUATION_STEP - self._draws)

    def finish(self, model: nn.Module) -> nn.Module:
        """Collapse every kernel to the mean of its copies."""
        return collapse(model)
