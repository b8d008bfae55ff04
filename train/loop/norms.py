"""Batch norm's statistics after weights have changed without training: after a collapse, or in a soup."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from collegium.train.majority.kernel import mixing

__all__ = ["reestimate_norms"]


@torch.no_grad()
def reestimate_norms(model: nn.Module, batches: Iterable[Any], device: torch.device | None = None) -> None:
    """Replace running means and variances by averages over ``batches`` under the present weights, in place.

    Statistics gathered while weights were sampled belong to noisier activations than those of the mean weights. Each
    batch is the model's input, or a sequence that starts with it, moved to ``device`` if given; dropout is off, and
    majority kernels that are still expanded take their mean. Norms that are frozen keep their statistics: those in
    evaluation mode within a model in training mode, and those whose weights are the only ones without gradients; so do
    norms that no batch reaches. Models without batch norm are left alone.

    Raises ``ValueError`` for a model with batch norm and no batch, whose statistics would be reset to nothing. Where a
    batch raises, modes and statistics are those from before.

    >>> import torch
    >>> from collegium import collapse, expand, reestimate_norms
    >>> model = expand(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8)), expansion=3)
    >>> inputs = torch.randn(32, 4)
    >>> reestimate_norms(collapse(model), [inputs])
    >>> torch.allclose(model[1].running_mean, model[0](inputs).mean(0), atol=1e-5)
    True
    """
    norms = _norms(model)
    if not norms:
        return
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("batch norms need at least one batch")
    with _estimating(model, norms), mixing(model, "mean"):
        for batch in chain([first], remaining):
            inputs = batch[0] if isinstance(batch, list | tuple) else batch
            model(inputs if device is None else inputs.to(device))


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of ``model`` that have statistics of their own and are not frozen."""
    trained = any(parameter.requires_grad for parameter in model.parameters())
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and not (model.training and not module.training)
        and not (trained and module.affine and not any(p.requires_grad for p in module.parameters()))
    ]


@contextmanager
def _estimating(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Context in which ``norms`` average what they see, from nothing on, and everything else is in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    before: list[tuple[_BatchNorm, float | None, dict[str, Tensor]]] = [
        (norm, norm.momentum, {name: value.clone() for name, value in norm.named_buffers()}) for norm in norms
    ]
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # a cumulative average
            norm.reset_running_stats()
        yield
        for norm, _, buffers in before:
            if not norm.num_batches_tracked:  # no batch has come to it, as to a head that is used in training alone
                _restore(norm, buffers)
    except BaseException:
        for norm, _, buffers in before:
            _restore(norm, buffers)
        raise
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum, _ in before:
            norm.momentum = momentum


def _restore(norm: _BatchNorm, buffers: dict[str, Tensor]) -> None:
    for name, value in buffers.items():
        norm.get_buffer(name).copy_(value)
