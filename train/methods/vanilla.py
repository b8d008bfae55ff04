"""Plain training: the baseline that everything is compared with, and the defaults of every other method."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from collegium.train.methods.method import ComputeLoss, Evaluate, Execution, StepOutput, run_microbatches


class Vanilla:
    """One model, one gradient a step. Other methods override what they change."""

    name = "vanilla"
    independent_models = 0
    shared_start = False
    trains = True

    def __init__(self, expansion: int = 1) -> None:
        self.expansion = expansion

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Return ``model`` as it is."""
        return model

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Return ``optimizer`` as it is."""
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
        """Forward and backward over the microbatches."""
        return run_microbatches(model, batches, compute_loss, execution, weights)

    def sampled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Return ``None``: training and evaluation use the same weights."""
        return None

    def finish(self, model: nn.Module) -> nn.Module:
        """Return ``model`` as it is."""
        return model

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module | None:
        """Return ``None``: there are no members."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary: the model and the optimizer hold everything."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept what ``state_dict`` returned."""
