"""The protocol between the training loop and a training method, and plain training.

A method decides how a model is prepared, what one optimizer step computes, and what the trained model collapses to.
The loop owns data, schedule, clipping, checkpoints and metrics, and runs the same lines for every method::

    model = method.prepare(model, seed=seed)                     # once; again before loading a checkpoint
    optimizer = method.optimizer(model, optimizer)               # may fuse work into the update
    rate = method.rates(rate, steps=steps)                       # the learning rate of each step
    for step, batches in enumerate(...):                         # batches: the microbatches of this step
        optimizer.zero_grad(set_to_none=True)
        output = method.step(model, batches, compute_loss, step=step, execution=execution)
        clip_gradient_norm(model, optimizer, max_norm)           # of majority.fused; also right for plain optimizers
        optimizer.step()
        method.after_step(model, step=step)
    model = method.finish(model)                                 # plain module, plain names
    if method.renews_norms:
        reestimate_norms(model, batches)

What the loop relies on:

* The prepared model in evaluation mode computes what ``finish`` leaves: it is evaluated as the trained model.
* Its ``state_dict`` holds everything that this depends on. Checkpoints keep it, and early stopping keeps nothing else;
  ``Method.state_dict`` is for what steps need besides.
* The prepared model has the plain model's ``config``, where that has one (transformers).
* Random numbers follow from ``seed`` and ``step`` alone, so that a training that was killed and resumed ends in the
  same weights as one that was not.

A method that needs models trained independently first declares how many (``independent_models``) and whether they share
a start (``shared_start``). The loop trains them by plain training and passes them to ``combine``. If ``trains`` is
false the combined model is the result; otherwise the loop above follows (a student of its teachers).

Method modules are read by processes that never load torch: they import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from collegium.search.fields import Strict
from collegium.train.methods.step import ComputeLoss, Execution, StepOutput, run_microbatches

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from collegium.train.majority.targets.names import Names
    from collegium.train.spec.recipes import Recipe

Evaluate = Callable[["nn.Module"], float]
"""Accuracy of a model on the validation split, its batch norms estimated anew."""

Copies = Annotated[int, Field(ge=1, le=64)]


class MethodOptions(Strict):
    """The options of a method: none."""

    # Subclasses have a field with a ``description`` for each option: specifications, their JSON schema, the lists of
    # methods and error messages are made from them. The bare number ``"expansion": 3`` stands for ``copies``.

    def suited_to(self, *, pretrained: bool) -> Self:
        """These options with the defaults that depend on whether training starts from pretrained weights.

        Raises ``InvalidSpec`` where an option means nothing then.
        """
        return self


class Method:
    """A training method: attributes of the class that specifications, limits and loop read, and hooks of the loop.

    Subclasses set ``name`` and ``summary``, usually ``Options``, and override what they change; everything else is
    plain training. An instance belongs to one training.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One sentence for lists of methods."""
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    expands: ClassVar[bool] = False
    """Whether ``expansion`` times the plain model's weights are trained."""
    renews_norms: ClassVar[bool] = True
    """Whether batch norms' statistics are estimated anew under the weights that ``finish`` or ``combine`` leave."""
    shared_start: ClassVar[bool] = False
    """Whether independent models start from the same weights (soups) or each from its own seed."""
    trains: ClassVar[bool] = True
    """Whether a model is trained by ``step``; if not, the result is that of ``combine``."""
    compiles: bool = False
    """Whether a compiler may be used for more than the model: the loop sets it, before ``prepare``, where the recipe
    has ``compile`` and one process trains."""

    def __init__(self, options: MethodOptions | None = None) -> None:
        self.options: Any = self.Options() if options is None else options

    @property
    def expansion(self) -> int:
        """e: copies of each kernel, candidates for each neuron, or independent models; 1 for plain training."""
        return getattr(self.options, "copies", 1)

    @property
    def independent_models(self) -> int:
        """How many models are trained by plain training before this method."""
        return 0

    @property
    def needs_validation(self) -> bool:
        """Whether the method chooses by validation samples."""
        return False

    @property
    def trained_copies(self) -> int:
        """Memory while training: how many times the plain model's parameters have a gradient and optimizer state."""
        return self.expansion if self.expands else 1

    @property
    def kept_models(self) -> int:
        """Memory while training: tensors as large as the plain model that are kept besides those that are trained."""
        return self.independent_models

    def check(self, recipe: Recipe) -> None:
        """Raise ``InvalidSpec`` where an option does not go with ``recipe``; asked when a training is posted."""

    def check_steps(self, steps: int) -> None:
        """Raise ``InvalidSpec`` where an option has no effect in a training of ``steps`` optimizer steps.

        Asked with the most that there can be when a training is posted, as far as they are known, and before it begins.
        """

    def remarks(self, steps: int) -> Sequence[str]:
        """Sentences on options that had no effect, for the notes of a result that ``steps`` optimizer steps led to."""
        return ()

    def check_names(self, names: Callable[[], Names | None]) -> None:
        """Raise ``InvalidSpec`` where an option names what the network lacks; asked when a training is posted.

        ``names()`` are the names in the network, None where they are not known before it is built.
        """

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Turn a plain ``model`` into the one that is trained, in place where possible; callers use what it returns."""
        return model

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """The optimizer to use: ``optimizer`` itself or a drop-in replacement with the same state_dict."""
        return optimizer

    def rates(self, rate: Callable[[int], float], *, steps: int) -> Callable[[int], float]:
        """The learning rate of each of ``steps`` optimizer steps, counted from 0; by default ``rate``, the recipe's."""
        return rate

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
        """Leave the gradient of one optimizer step in place; by default that of the loss, forward and backward.

        ``batches`` are the microbatches of this step (one, without accumulation); ``weights`` are their shares of the
        step's mean loss (default: equal). ``step`` counts optimizer steps from 0 over the whole training and alone
        determines the random numbers of this step.
        """
        return run_microbatches(model, batches, compute_loss, execution, weights)

    def after_step(self, model: nn.Module, *, step: int) -> None:
        """Called when the optimizer has taken ``step``; ``model`` is the prepared model, without wrappers."""

    def sampled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Context in which evaluation uses the weights that training sees; ``None`` if they are the same."""
        return None

    def finish(self, model: nn.Module) -> nn.Module:
        """Collapse to the plain module: same class, same parameter names as before ``prepare``."""
        return model

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module | None:
        """Take the ``independent_models``: return the result, or keep them and return ``None`` if ``trains``."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beyond the model's and the optimizer's own state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


class Vanilla(Method):
    """One model, one gradient a step: the baseline of every comparison."""

    name = "vanilla"
    summary = "plain training of one model"
    renews_norms = False  # its statistics were gathered under its own weights
