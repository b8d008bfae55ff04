"""Diagnostics of an expanded model: how much mixing changes its loss, and how far its copies are apart."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collegium.train.majority.kernel import majority_copies, mixing

ComputeLoss = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
"""A model and a batch → the mean loss over the batch, 0-dim, and the logits."""
IGNORED = -100  # the label of a token that does not count, as in torch's cross-entropy


@dataclass(frozen=True)
class Sharpness:
    """Stochastic sharpness Δ = |E_p L(θ_p) − L(θ̄)| (Mazzawi et al. 2024, Lemma B.1).

    ``sampled`` is the mean loss over ``draws`` draws of p, ``mean`` the loss of the mean weights, ``standard_error``
    that of ``sampled`` over draws, hence of Δ; it is NaN for a single draw.
    """

    sampled: float
    mean: float
    standard_error: float
    draws: int

    @property
    def delta(self) -> float:
        """Δ."""
        return abs(self.sampled - self.mean)


@torch.no_grad()
def stochastic_sharpness(
    model: nn.Module, batches: Iterable[Any], compute_loss: ComputeLoss, *, draws: int = 8
) -> Sharpness:
    """Estimate Δ of an expanded ``model`` over ``batches``, which is read 1 + ``draws`` times, so no iterator.

    Losses are means over all samples, or over all labels that count (not −100) where they are sequences, however these
    are batched, and taken in evaluation mode: batch norms use their running statistics, dropout is off. The draws are
    the same in every call and differ from all draws of training. Raises ``ValueError`` where nothing is expanded or
    there is no batch.

    >>> import torch
    >>> from collegium import expand, stochastic_sharpness
    >>> model = expand(torch.nn.Linear(4, 2), expansion=3)
    >>> batches = [(torch.ones(8, 4), torch.zeros(8, dtype=torch.long))]
    >>> def compute_loss(model, batch):
    ...     logits = model(batch[0])
    ...     return torch.nn.functional.cross_entropy(logits, batch[1]), logits
    >>> stochastic_sharpness(model, batches, compute_loss, draws=4).delta >= 0
    True
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    if not majority_copies(model):
        raise ValueError("the model has no majority kernels")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with mixing(model, "mean"):
            mean = _loss(model, batches, compute_loss)
        sampled = []
        for draw in range(draws):
            with mixing(model, "sample", step=-1 - draw):
                sampled.append(_loss(model, batches, compute_loss))
    finally:
        for module in training:
            module.training = True
    average = sum(sampled) / draws
    spread = math.sqrt(sum((loss - average) ** 2 for loss in sampled) / (draws - 1)) if draws > 1 else math.nan
    return Sharpness(average, mean, spread / math.sqrt(draws), draws)


def _loss(model: nn.Module, batches: Iterable[Any], compute_loss: ComputeLoss) -> float:
    losses, weights = [], []
    for batch in batches:
        loss, logits = compute_loss(model, batch)
        weights.append(_weight(batch, logits))
        losses.append(loss.double() * weights[-1])
    if not losses:
        raise ValueError("no batch to compute the loss of")
    return float(torch.stack(losses).sum()) / max(1, sum(weights))


def _weight(batch: Any, logits: Any) -> int:
    """What the mean loss of a batch is the mean over: its samples, or the labels that count of sequences."""
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    labels = batch.get("labels") if isinstance(batch, Mapping) else batch[1] if pair else None
    if isinstance(labels, Tensor) and labels.ndim > 1 and not labels.is_floating_point():
        return int((labels != IGNORED).sum())
    return len(logits) if isinstance(logits, Tensor) and logits.ndim else 1


@torch.no_grad()
def kernel_spread(model: nn.Module) -> dict[str, float]:
    """How far the copies of each kernel are apart, by the name of the weight.

    The root mean square over copies of |w_k − w̄|, divided by |w̄|: 0 for replicated copies, √(e − 1) for independent
    ones, infinite where the mean vanishes.

    >>> import torch
    >>> from collegium import expand, kernel_spread
    >>> spread = kernel_spread(expand(torch.nn.Linear(4, 2), expansion=3, init="replicated"))
    >>> spread["weight"] < 1e-6
    True
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for _, copies in majority_copies(model):
        mean = copies.mean(0)
        apart, size = float((copies - mean).norm()) / math.sqrt(len(copies)), float(mean.norm())
        name = f".{names[id(copies)]}".replace(".parametrizations.", ".").removesuffix(".original")[1:]
        found[name] = apart / size if size else (math.inf if apart else 0.0)
    return found
