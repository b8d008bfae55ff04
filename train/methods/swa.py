"""Stochastic weight averaging (Izmailov et al. 2018): the mean of the weights along the end of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from collegium.search.errors import InvalidSpec
from collegium.train.methods.method import Method, MethodOptions

if TYPE_CHECKING:
    from torch import nn

    from collegium.train.spec.recipes import Recipe


USUAL_START = 0.75


class SwaOptions(MethodOptions):
    """Which weights are averaged, and the learning rate that moves them meanwhile."""

    start: Annotated[float, Field(ge=0, lt=1)] = Field(
        USUAL_START, description="share of the training's steps after which averaging begins"
    )
    learning_rate: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description="constant rate from there on; by default the rate that the recipe's schedule has reached there",
    )
    every: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        1, description="steps from one model that is averaged to the next"
    )


class Swa(Method):
    """θ̄ = mean of θ over every ``every``-th step from ``start`` on, taken at a constant learning rate.

    θ̄ is the trained model; before ``start`` it is the model of the last step. Batch norms' statistics are estimated
    anew under θ̄ when training ends; what is validated on the way has the mean of the statistics.

    >>> from collegium.train.methods import create
    >>> rates = create("swa", start=0.5, learning_rate=0.3).rates(lambda step: 1 / (1 + step), steps=4)
    >>> [round(rates(step), 3) for step in range(4)]
    [1.0, 0.5, 0.3, 0.3]
    """

    name = "swa"
    summary = "plain training whose last part, at a constant rate, is averaged in weight space"
    Options = SwaOptions

    def __init__(self, options: SwaOptions | None = None) -> None:
        super().__init__(options)
        self._first: int | None = None

    @property
    def kept_models(self) -> int:
        """The average."""
        return 1

    def check(self, recipe: Recipe) -> None:
        """Refuse a start within the warm-up, whose rate would be taken for the constant one."""
        warm = recipe.warmup_epochs / recipe.epochs
        if self.options.learning_rate is None and self.options.start < warm:
            raise InvalidSpec(
                ("expansion", "start"),
                f"the learning rate still rises there, until {warm:.3g} of the training: begin later, or give "
                "'learning_rate'",
            )

    def check_steps(self, steps: int) -> None:
        """Refuse an average of one model, which is plain training."""
        averaged = steps - self._begin(steps)
        if averaged == 1 and self.options.start > USUAL_START:  # which leaves one of four steps: a trial's
            message = f"of {steps} steps this averages the last one alone: begin earlier, or train for longer"
            raise InvalidSpec(("expansion", "start"), message)
        if self.options.every >= averaged > 1:
            message = f"the averaged part has {averaged} steps, of which this leaves the first: give fewer"
            raise InvalidSpec(("expansion", "every"), message)

    def remarks(self, steps: int) -> Sequence[str]:
        """Whether it is no average."""
        if self._first is None or steps - self._first > 1:
            return ()
        begun = "before averaging began" if steps <= self._first else "with the first step that is averaged"
        return (f"The weights are those of one step, {steps}, {begun}: this is plain training.",)

    def _begin(self, steps: int) -> int:
        # A product such as 0.7 · 90 is rounded to below the 63 that it is, where the rate may still be another one.
        return int(round(self.options.start * steps, 6))

    def rates(self, rate: Callable[[int], float], *, steps: int) -> Callable[[int], float]:
        """The recipe's rates, and a constant from ``start`` on. Raises ``InvalidSpec`` as ``check_steps`` does."""
        self.check_steps(steps)
        first = self._first = self._begin(steps)
        constant = rate(first) if self.options.learning_rate is None else self.options.learning_rate
        return lambda step: rate(step) if step < first else constant

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """``model`` beside its average."""
        from collegium.train.models.running_average import RunningAverage

        return RunningAverage(model, lambda models: 1 / (models + 1))

    def after_step(self, model: nn.Module, *, step: int) -> None:
        """Take the weights into the average, where its turn has come."""
        if self._first is None:
            raise RuntimeError("ask for the learning rates first: they say how many steps there are")
        if step >= self._first and (step - self._first) % self.options.every == 0:
            model.take_in()  # type: ignore[operator]

    def finish(self, model: nn.Module) -> nn.Module:
        """The average, as a plain module."""
        return model.finish()  # type: ignore[operator]
