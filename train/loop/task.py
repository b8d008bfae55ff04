"""What a network is trained for: how a batch goes in, which logits come out, and how good they are on a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collegium.train.data.batches import evaluation_batches
from collegium.train.data.dataset import Batch, Dataset, Preprocessing, Split
from collegium.train.loop.metrics import IGNORED, Metrics, MetricSum, loss_of
from collegium.train.loop.runtime import Runtime, float32_as

PADDING = 0


@dataclass(frozen=True)
class Task:
    """``logits(model, inputs, labels)`` are the logits, ``(batch, classes)`` or ``(batch, tokens, vocabulary)``."""

    logits: Callable[[nn.Module, Tensor, Tensor], Tensor]
    smoothing: float = 0.0

    def compute_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss over the batch, with graph, and the logits."""
        inputs, labels = batch
        logits = self.logits(model, inputs, labels)
        return loss_of(logits, labels, smoothing=self.smoothing), logits


def task_for(data: Dataset, model: nn.Module, *, smoothing: float = 0.0) -> Task:
    """The task of a data set: classes of images, features or tokens, or sequences from sequences.

    Transformers have a ``config``; every other model reads its samples alone.
    """
    if data.kind != "tokens" or getattr(model, "config", None) is None:
        return Task(_classify, smoothing)
    if data.classes:
        return Task(_ClassifyTokens(data.padding), smoothing)
    config: Any = model.config
    return Task(_Rewrite(int(config.decoder_start_token_id), data.padding), smoothing)


def _classify(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return model(inputs)


def own_tokens(inputs: Tensor, padding: int) -> Tensor:
    """``inputs`` as their tokenizer has them, whose ``padding`` they have in the place of 0, and 0 in its place."""
    if padding == PADDING:
        return inputs
    return torch.where(inputs == PADDING, padding, torch.where(inputs == padding, PADDING, inputs))


@dataclass(frozen=True)
class _ClassifyTokens:
    padding: int

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return model(input_ids=own_tokens(inputs, self.padding), attention_mask=(inputs != PADDING).long()).logits


@dataclass(frozen=True)
class _Rewrite:
    """Teacher forcing: the decoder sees the label shifted by one."""

    start: int
    padding: int

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        begin = torch.full_like(labels[:, :1], self.start)
        shifted = torch.cat([begin, labels[:, :-1]], 1)
        return model(
            input_ids=own_tokens(inputs, self.padding),
            attention_mask=(inputs != PADDING).long(),
            decoder_input_ids=shifted.masked_fill(shifted == IGNORED, PADDING),
            use_cache=False,
        ).logits


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    task: Task,
    runtime: Runtime,
    *,
    most: int | None = None,
    full_precision: bool = False,
) -> Metrics:
    """Loss and accuracy of ``model`` in evaluation mode on ``split``, or on its first ``most`` samples.

    In the precision of training, or in full float32, as a checkpoint computes. The model's mode is left as it was.
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
        with float32_as("fp32") if full_precision else runtime.autocast():
            for x, y in batches:
                total.add(task.logits(model, x, y), y)
    finally:
        model.train(was_training)
    return total.mean()
