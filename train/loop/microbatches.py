"""The parts of one step's batch, and each one's share of the mean loss over the step in all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from collegium.train.data.dataset import Batch
from collegium.train.loop.metrics import IGNORED

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Microbatches:
    """``batches`` of one step with the ``weights`` of their mean losses: None where there is one of weight 1.

    Σ_i weights_i · loss_i, averaged over processes, is the mean loss over the step; ``labels`` times the sum of one
    process is its part of the sum over all labels that count.
    """

    batches: Sequence[Batch]
    weights: Sequence[float] | None
    labels: float | Tensor


def least_part(model: nn.Module) -> int:
    """Samples of the smallest part: batch norms take the variance of two at least."""
    return 2 if any(isinstance(module, _BatchNorm) for module in model.modules()) else 1


def split(batch: Batch, parts: int, *, least: int = 1, world: int = 1, reduce: Reduce | None = None) -> Microbatches:
    """At most ``parts`` parts of ``batch``, as equal as can be, of ``least`` samples each where there are as many.

    Each weighs as many labels as count in it: samples, or tokens of sequences that are padded with −100. Processes
    have their batches from one step; ``reduce`` adds a tensor over all ``world`` of them.
    """
    x, y = batch
    number = max(1, min(parts, len(y) // least))
    batches = [batch] if number == 1 else list(zip(x.tensor_split(number), y.tensor_split(number), strict=True))
    if y.ndim < 2 or y.is_floating_point():  # a label for each sample, of which processes have equally many
        weights = [len(labels) / len(y) for _, labels in batches] if number > 1 else None
        return Microbatches(batches, weights, len(y))
    if number == 1 and reduce is None:
        return Microbatches(batches, None, (y != IGNORED).sum())  # left on the device, which is not waited for
    counts = torch.stack([(labels != IGNORED).sum() for _, labels in batches])
    total = counts.sum() if reduce is None else reduce(counts.sum())
    *own, every = torch.cat([counts, total.reshape(1)]).tolist()
    labels = every / world  # the mean over processes is taken of gradients
    return Microbatches(batches, [count / max(labels, 1 / world) for count in own], labels)
