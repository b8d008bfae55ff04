"""Stochastic sharpness of a model in training or at its end, over its first training samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from collegium.train.data.batches import evaluation_batches
from collegium.train.data.dataset import Batch, Dataset
from collegium.train.loop.runtime import Runtime
from collegium.train.loop.task import Task
from collegium.train.majority.diagnostics import Sharpness, stochastic_sharpness
from collegium.train.majority.kernel import majority_copies

MOST_TRAINING_SAMPLES = 60_000
"""Training samples on which a finished model is evaluated; where there are more, the first so many."""
DRAWS = 8
"""Draws of p over which the stochastic sharpness of a finished model is averaged."""
WHILE_TRAINING = 512, 4
"""Samples and draws on the way: passes over 2,560 samples, forward alone."""


def measure_sharpness(
    model: nn.Module,
    data: Dataset,
    task: Task,
    runtime: Runtime,
    *,
    most: int = MOST_TRAINING_SAMPLES,
    draws: int = DRAWS,
) -> Sharpness | None:
    """Δ of an expanded ``model`` on the first ``most`` training samples; None where no mixture of copies is drawn.

    The weights, the draws of training and torch's random numbers are as they were before.
    """
    if not any(getattr(kernel, "random", True) for kernel, _ in majority_copies(model)):
        return None
    return stochastic_sharpness(model, _Samples(data, runtime.evaluation_batch, most), task.compute_loss, draws=draws)


@dataclass(frozen=True)
class _Samples:
    """The first training samples, preprocessed anew in each pass: as images of 224 × 224 pixels all take 36 GB."""

    data: Dataset
    batch_size: int
    most: int

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        return evaluation_batches(data.train, data.preprocessing, batch_size=self.batch_size, most=self.most)
