"""Evaluation of a model on a split."""

from __future__ import annotations

import torch
from torch import nn

from collegium.train.data.batches import evaluation_batches
from collegium.train.data.dataset import Preprocessing, Split
from collegium.train.loop.metrics import Metrics, MetricSum
from collegium.train.loop.runtime import Runtime
from collegium.train.loop.task import Task


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    task: Task,
    runtime: Runtime,
    *,
    most: int | None = None,
) -> Metrics:
    """Loss and accuracy of ``model`` in evaluation mode on ``split``, or on its first ``most`` samples.

    The model's mode is left as it was.
    """
    total = MetricSum(runtime.device, runtime.sum())
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
                total.add(task.logits(model, x, y), y)
    finally:
        model.train(was_training)
    return total.mean()
