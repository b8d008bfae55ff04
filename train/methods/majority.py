"""Majority kernels, Mazzawi et al. 2024, Algorithm 2.1."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from collegium.train.majority.clock import Clock
from collegium.train.majority.expand import Correction, Init, collapse, expand
from collegium.train.majority.fused import fuse
from collegium.train.majority.kernel import MajorityKernel, majority_kernels, mixing
from collegium.train.methods.method import ComputeLoss, Execution, StepOutput, run_microbatches
from collegium.train.methods.vanilla import Vanilla


class Majority(Vanilla):
    """Every kernel is trained as ``expansion`` copies, mixed anew at random in every step; their mean is the answer.

    ``initialization``, ``correct_scale`` and ``patterns`` (names to include) are those of ``collegium.expand``.
    """

    name = "majority"
    kernel: type[MajorityKernel] = MajorityKernel

    def __init__(
        self,
        expansion: int = 3,
        *,
        initialization: Init = "independent",
        correct_scale: Correction = False,
        patterns: Sequence[str] = (),
    ) -> None:
        super().__init__(expansion)
        self.initialization: Init = initialization
        self.correct_scale: Correction = correct_scale
        self.patterns = tuple(patterns)
        self._clock: Clock | None = None
        self._evaluations = 0

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Expand ``model`` in place."""
        expand(
            model,
            self.expansion,
            init=self.initialization,
            include=self.patterns or None,
            correct_scale=self.correct_scale,
            seed=seed,
            kernel=self._make_kernel,
        )
        self._clock = next(iter(majority_kernels(model).values())).clock
        return model

    def _make_kernel(self, expansion: int, clock: Clock, index: int) -> MajorityKernel:
        return self.kernel(expansion, clock, index)

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Fuse the gradient of the copies with their update, where that pays."""
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
        """Forward and backward under the p of this step, the same for all microbatches and processes."""
        self.clock.step = step
        return run_microbatches(model, batches, compute_loss, execution, weights)

    @property
    def clock(self) -> Clock:
        """The clock of the prepared model's kernels."""
        if self._clock is None:
            raise RuntimeError("prepare a model first")
        return self._clock

    def sampled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Context in which evaluation mixes the copies by a fresh draw; each call gives another."""
        return self._sampled(model)

    @contextmanager
    def _sampled(self, model: nn.Module) -> Iterator[None]:
        self._evaluations += 1
        with mixing(model, "sample", step=-self._evaluations):
            yield

    def finish(self, model: nn.Module) -> nn.Module:
        """Collapse every kernel to the mean of its copies, in place."""
        return collapse(model)
