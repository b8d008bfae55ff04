"""Evaluation, and batch norm's statistics for weights that no forward pass has seen in training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.data.batches import TrainingBatches, evaluation_batches
from train.data.dataset import Batch, Preprocessing, Split
from train.figures import Figures, Tally
from train.runtime import Runtime
from train.task import Task

NORM_BATCHES = 200
"""Batches over which norms are estimated anew; their statistics hardly change beyond that."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    task: Task,
    runtime: Runtime,
    *,
    most: int | None = None,
) -> Figures:
    """Loss and accuracy of ``model`` in evaluation mode on ``split``, or on its first ``most`` samples.

    The model's mode is left as it was.
    """
    tally = Tally(runtime.device, runtime.sum())
    was_training = model.training
    model.eval()
    try:
        batches = evaluation_batches(
            split,
            preprocessing,
            batch_size=runtime.evaluation_batch,
            most=most,
            rank=runtime.rank,
            world=runtime.world,
        )
        with runtime.autocast():
            for x, y in batches:
                tally.add(task.scores(model, x, y), y)
    finally:
        model.train(was_training)
    return tally.figures()


def has_batch_norm(model: nn.Module) -> bool:
    """Whether ``model`` keeps running statistics."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def reestimate_norms(model: nn.Module, batches: TrainingBatches, task: Task) -> None:
    """Replace batch norm's running statistics by means over training batches under the model's present weights.

    Statistics gathered while weights were sampled, or before weights were averaged, belong to other weights.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if norms:
        _forward_in_training_mode(model, norms, batches.epoch(0), task)


@torch.no_grad()
def _forward_in_training_mode(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Batch], task: Task) -> None:
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()  # nothing but the norms sees training mode: dropout stays off
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    try:
        for index, (x, y) in enumerate(batches):
            if index == NORM_BATCHES:
                break
            task.scores(model, x, y)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
