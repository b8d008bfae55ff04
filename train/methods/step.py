"""One optimizer step, as the training loop and a method share it: forward and backward over its microbatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class ComputeLoss(Protocol):
    """What the loop minimizes."""

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Run ``model`` on ``batch``: the mean loss over the batch (0-dim, with graph) and the logits."""
        ...


def _backward(loss: Tensor) -> None:
    loss.backward()


def _no_sync(model: nn.Module) -> AbstractContextManager[Any]:
    no_sync = getattr(model, "no_sync", None)
    return nullcontext() if no_sync is None else no_sync()


@dataclass(frozen=True)
class Execution:
    """How this process runs a backward pass: the two things that a launcher (Fabric) changes.

    ``backward(loss)`` accumulates gradients; ``no_sync(model)`` is a context in which a distributed wrapper does
    not reduce gradients between processes.
    """

    backward: Callable[[Tensor], None] = _backward
    no_sync: Callable[[nn.Module], AbstractContextManager[Any]] = _no_sync


@dataclass(frozen=True)
class StepOutput:
    """``loss`` of one step (detached, 0-dim, mean over the step) and ``logits`` per microbatch (detached).

    Both belong to the pass whose gradient the optimizer applies, before that update. ``loss`` is the loss that
    ``compute_loss`` returned, so that it compares between methods; ``extra`` holds a method's own metrics.
    """

    loss: Tensor
    logits: list[Tensor]
    extra: dict[str, Tensor] = field(default_factory=dict)


def run_microbatches(
    model: nn.Module,
    batches: Sequence[Any],
    compute_loss: ComputeLoss,
    execution: Execution,
    weights: Sequence[float] | None = None,
) -> StepOutput:
    """One gradient: forward and backward over the microbatches, gradients reduced between processes once.

    The gradient is that of Σ_i weights_i · loss_i, so that accumulation over equal microbatches gives the gradient of
    the mean loss over the whole batch. Raises ``ValueError`` without a batch, or without a weight for each.
    """
    import torch

    if not batches:
        raise ValueError("a step needs at least one microbatch")
    shares = [1.0 / len(batches)] * len(batches) if weights is None else list(weights)
    if len(shares) != len(batches):
        raise ValueError(f"{len(batches)} microbatches but {len(shares)} weights")
    losses: list[Tensor] = []
    logits: list[Tensor] = []
    for last, batch, share in _mark_last(batches, shares):
        with nullcontext() if last else execution.no_sync(model):
            loss, output = compute_loss(model, batch)
            scaled = loss * share
            execution.backward(scaled)
        losses.append(scaled.detach())
        logits.append(output.detach())
    return StepOutput(loss=torch.stack(losses).sum(), logits=logits)


def _mark_last(batches: Sequence[Any], shares: Sequence[float]) -> Iterator[tuple[bool, Any, float]]:
    for index, (batch, share) in enumerate(zip(batches, shares, strict=True)):
        yield index == len(batches) - 1, batch, share


def repeated_randomness() -> Callable[[], None]:
    """A function that sets torch's random generators back to where they are now, for a second pass over a batch.

    Both passes of a step then have the same dropout, hence the same loss as a function of the weights.

    >>> import torch
    >>> repeat = repeated_randomness()
    >>> first = torch.rand(3)
    >>> repeat()
    >>> torch.equal(torch.rand(3), first)
    True
    """
    import torch

    cpu = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def repeat() -> None:
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return repeat
