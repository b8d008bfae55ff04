"""The protocol between the training loop and a training method.

A method owns everything between "here are the microbatches of one optimizer step" and "the gradients are in
place". The loop owns data, schedule, clipping, checkpoints and metrics, and runs the same lines for each method::

    model = method.prepare(model, seed=seed)                     # once; again before loading a checkpoint
    optimizer = method.optimizer(model, optimizer)               # may fuse work into the update
    for step, batches in enumerate(...):                         # batches: the microbatches of this step
        optimizer.zero_grad(set_to_none=True)
        output = method.step(model, batches, compute_loss, step=step, execution=execution)
        clip_gradient_norm(model, optimizer, max_norm)           # of majority.fused; also right for plain optimizers
        optimizer.step()
    model = method.finish(model)                                 # plain module, plain names; then re-estimate norms

Methods that need independently trained models first say so with ``members`` and ``shared_start``. The loop trains
``members`` models by plain (vanilla) training and hands them to ``combine``. If ``trains`` is false the result
of ``combine`` is the answer; otherwise the loop above follows (a student taught by its members).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["ComputeLoss", "Evaluate", "Execution", "Method", "StepOutput", "run_microbatches"]


class ComputeLoss(Protocol):
    """What the loop minimizes."""

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Run ``model`` on ``batch``: the mean loss over the batch (0-dim, with graph) and the logits."""
        ...


Evaluate = Callable[[nn.Module], float]
"""Score of a model on the validation split; higher is better."""


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
    """What one step saw: ``loss`` (detached, 0-dim, mean over the step) and ``logits`` per microbatch (detached).

    Both belong to the pass whose gradient the optimizer applies, before that update. ``loss`` is the loss that
    ``compute_loss`` returned, so that it compares between methods; ``extra`` holds a method's own metrics.
    """

    loss: Tensor
    logits: list[Tensor]
    extra: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """One way to train a model."""

    name: str
    expansion: int  # e: copies of each kernel, rows per kept row, or members; 1 for vanilla
    independent_models: int  # models to train by vanilla training before this method; 0 for most
    shared_start: bool  # whether those members start from the same weights (soups) or from their own seeds
    trains: bool  # whether the single-model loop runs at all (not for ensembles and soups)

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Turn a plain ``model`` into the one that is trained. In place where possible; use what it returns."""
        ...

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer to use: ``optimizer`` itself or a drop-in replacement with the same state_dict."""
        ...

    def step(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        compute_loss: ComputeLoss,
        *,
        step: int,
        execution: Execution = Execution(),
        weights: Sequence[float] | None = None,
    ) -> StepOutput:
        """Leave the gradient of one optimizer step in place.

        ``batches`` are the microbatches of this step (one, without accumulation); ``weights`` are their shares
        of the step's mean loss (default: equal). ``step`` counts optimizer steps from 0 over the whole training and
        alone determines the random numbers of this step, so that a resumed run repeats them.
        """
        ...

    def sampled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Context in which evaluation uses the weights that training sees; ``None`` if they are the same."""
        ...

    def finish(self, model: nn.Module) -> nn.Module:
        """Collapse to the plain module: same class, same parameter names as before ``prepare``."""
        ...

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module | None:
        """Take the trained ``members``: return the answer, or keep them and return ``None`` if ``trains``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beyond the model's and the optimizer's own state."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        ...


def run_microbatches(
    model: nn.Module,
    batches: Sequence[Any],
    compute_loss: ComputeLoss,
    execution: Execution,
    weights: Sequence[float] | None = None,
) -> StepOutput:
    """One gradient: forward and backward over the microbatches, gradients reduced between processes once.

    The gradient is that of Σ_i weights_i · loss_i, so that accumulation over equal microbatches gives the gradient of
    the mean loss over the whole batch.
    """
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
