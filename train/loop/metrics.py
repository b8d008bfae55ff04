"""Loss and accuracy, summed over batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
PENDING = 4_000_000
"""Numbers among the logits that are kept before they are counted: many batches at once cost little."""


@dataclass(frozen=True)
class Metrics:
    """Mean ``loss``, and the fractions of samples whose label has the largest logit (``top1``) or one of the five best.

    Where labels are sequences, the loss is the mean over tokens, and a sample is right where each of its tokens has
    the largest logit given the right tokens before it, which is when greedy decoding writes the label.
    """

    loss: float
    top1: float
    top5: float
    samples: int


def loss_of(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of logits ``(…, classes)`` and labels ``(…)``; labels of −100 do not count.

    Where none counts it is 0, and so is its gradient.
    Labels of mixed samples are ``(batch, classes)``, the classes' shares.
    """
    if labels.is_floating_point():
        return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=smoothing)
    logits, labels = logits.flatten(0, -2), labels.flatten()
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)


def labels_of(labels: Tensor) -> Tensor:
    """One class for each sample: that with the largest share in a mixed one. Other labels as they are."""
    return labels.argmax(1) if labels.is_floating_point() else labels


def count(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums ``(loss, weights of the loss, right at once, right among five, samples)`` of one batch, as float64."""
    logits = logits.float()
    if labels.ndim > 1:
        return _count_sequences(logits, labels)
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    first, five = _hits(logits, labels)
    return _sums(loss, len(labels), first.sum(), five.sum(), len(labels))


def _count_sequences(logits: Tensor, labels: Tensor) -> Tensor:
    counts = labels != IGNORED
    loss = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    first, five = ((hit | ~counts).all(1).sum() for hit in _hits(logits, labels))
    return _sums(loss, counts.sum(), first, five, len(labels))


def _hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where a label has the largest logit, and where it is among five; of equal ones the first is the largest, as for
    who asks for ``argmax``.
    """
    first = logits.argmax(-1) == labels
    return first, first | (logits.topk(min(5, logits.shape[-1])).indices == labels[..., None]).any(-1)


def _sums(*values: Tensor | int) -> Tensor:
    device = next(value.device for value in values if isinstance(value, Tensor))
    # A number is filled in on the device: copying it there would wait for all work that is queued.
    numbers = [value if isinstance(value, Tensor) else torch.full((), value, device=device) for value in values]
    return torch.stack([number.double() for number in numbers])


class MetricSum:
    """Sums over batches, whose means are :class:`Metrics`. Nothing leaves the device before ``mean`` is called.

    ``reduce`` adds the sums of several processes.
    """

    def __init__(self, device: torch.device, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)
        self._reduce = reduce
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._weights: float | Tensor = 0.0
        self._numbers = 0

    def add(
        self, logits: Tensor, labels: Tensor, loss: Tensor | None = None, *, weight: float | Tensor | None = None
    ) -> None:
        """Count one batch. ``loss``, where given, is the mean loss to report in place of the logits' cross entropy.

        It is the mean over ``weight`` labels, by default over one for each sample.
        """
        self._logits.append(logits)
        self._labels.append(labels)
        if loss is not None:
            own = len(labels) if weight is None else weight
            self._losses.append(loss * own)
            self._weights += own
        self._numbers += logits.numel()
        if self._numbers > PENDING or labels.ndim > 1:
            self._flush()

    def _flush(self) -> None:
        if not self._logits:
            return
        labels = torch.cat(self._labels)
        sums = count(torch.cat(self._logits), labels)
        if self._losses:
            sums[0] = torch.stack(self._losses).double().sum()
            sums[1] = self._weights
        self._sums += sums
        self._logits, self._labels, self._losses, self._weights, self._numbers = [], [], [], 0.0, 0

    def mean(self, *, local: bool = False) -> Metrics:
        """Means over everything counted so far, in all processes; with ``local``, in this one, without waiting."""
        self._flush()
        sums = self._sums if local or self._reduce is None else self._reduce(self._sums.clone())
        loss, weights, first, five, samples = sums.tolist()
        total = max(samples, 1.0)
        return Metrics(loss / weights if weights else loss, first / total, five / total, int(samples))

    def state(self) -> list[float]:
        """The sums, for a checkpoint."""
        self._flush()
        return self._sums.tolist()

    def restore(self, sums: list[float]) -> None:
        """Go on from the sums of a checkpoint."""
        self._sums = torch.tensor(sums, dtype=torch.float64, device=self._sums.device)
