"""Batch norm's statistics after weights have changed without training: after a collapse, or in a soup."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

__all__ = ["reestimate_norms"]


def reestimate_norms(model: nn.Module, batches: Iterable[Any], device: torch.device | None = None) -> None:
    """Replace running means and variances by averages over ``batches`` under the present weights, in place.

    Statistics gathered while weights were sampled belong to noisier activations than those of the mean weights. Each
    batch is the model's input, or a sequence that starts with it; dropout is off. Models without batch norm are left
    alone. Raises ``ValueError`` for a model with batch norm and no batch, whose statistics would be reset to nothing.

    >>> import torch
    >>> from collegium import collapse, expand, reestimate_norms
    >>> model = expand(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8)), expansion=3)
    >>> inputs = torch.randn(32, 4)
    >>> reestimate_norms(collapse(model), [inputs])
    >>> torch.allclose(model[1].running_mean, model[0](inputs).mean(0), atol=1e-5)
    True
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("batch norms need at least one batch")
    droppers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    rates = [m.p for m in droppers]
    try:
        for dropper in droppers:
            dropper.p = 0.0  # update_bn puts the whole model in training mode
        update_bn(chain([first], remaining), model, device)
    finally:
        for dropper, rate in zip(droppers, rates, strict=True):
            dropper.p = rate
