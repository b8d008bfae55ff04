"""Exponential moving average of the weights: Polyak averaging that forgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from collegium.train.methods.method import Method, MethodOptions

if TYPE_CHECKING:
    from torch import nn


class EmaOptions(MethodOptions):
    """How fast the average forgets."""

    decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999, description="weight of the average so far, against that of the weights after a step"
    )
    warmup: bool = Field(
        True,
        description="let the decay rise to its value as (1 + t) / (10 + t) in step t; otherwise divide the average "
        "by the sum of its weights (bias correction)",
    )


class Ema(Method):
    """θ̄ ← d_t θ̄ + (1 − d_t) θ after each step; θ̄ is the trained model, and the one that is validated on the way.

    With ``warmup``, d_t = min(decay, (1 + t) / (10 + t)): short trainings are averaged over their last tenth or so
    and long ones over 1/(1 − decay) steps. Without, d_t = decay (1 − decay^t) / (1 − decay^(t+1)), which makes θ̄ the
    mean of all weights so far, weighted by decay^age. The weights before the first step never enter.

    Batch norms' statistics are averaged in the same way as the weights, and not estimated anew.

    >>> from collegium.train.methods import create
    >>> ema = create("ema", decay=0.9)
    >>> round(ema.share(1), 3), round(ema.share(1000), 3)
    (0.818, 0.1)
    """

    name = "ema"
    summary = "plain training, and the exponential moving average of its weights as the trained model"
    Options = EmaOptions
    renews_norms = False

    @property
    def kept_models(self) -> int:
        """The average."""
        return 1

    def share(self, models: int) -> float:
        """1 − d_t: weight of the newest model where ``models`` = t ≥ 1 are in the average."""
        decay: float = self.options.decay
        if self.options.warmup:
            return 1 - min(decay, (1 + models) / (10 + models))
        return (1 - decay) / (1 - decay ** (models + 1))

    def remarks(self, steps: int) -> Sequence[str]:
        """Whether a decay of one's own was never reached, so that any larger one gives the same weights."""
        decay, most = self.options.decay, steps / (9 + steps)  # of the last step: t = steps − 1
        if not self.options.warmup or decay <= most or decay == type(self.options).model_fields["decay"].default:
            return ()
        return (f"The decay rose to {most:.3g} in {steps} steps, and {decay:g} was not reached: see 'warmup'.",)

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """``model`` beside its average."""
        from collegium.train.models.running_average import RunningAverage

        return RunningAverage(model, self.share)

    def after_step(self, model: nn.Module, *, step: int) -> None:
        """Take the weights of this step into the average."""
        model.take_in()  # type: ignore[operator]

    def finish(self, model: nn.Module) -> nn.Module:
        """The average, as a plain module."""
        return model.finish()  # type: ignore[operator]
