"""Figures of a trained model on every split, and what diagnostics ask of it."""

from __future__ import annotations

from torch import nn

from collegium.train.data.batches import evaluation_batches
from collegium.train.data.dataset import Split
from collegium.train.diagnostics import Sharpness, kernel_spread, stochastic_sharpness
from collegium.train.evaluate import evaluate
from collegium.train.figures import Figures
from collegium.train.fused import majority_copies
from collegium.train.method import Method
from collegium.train.result import Diagnostics, Scores, Splits
from collegium.train.setting import Setting

MOST_TRAINING_SAMPLES = 60_000
"""Training samples on which a finished model is evaluated; where there are more, the first so many."""
DRAWS = 8
"""Draws of p over which the stochastic sharpness is averaged."""


def figures_on(setting: Setting, model: nn.Module, split: Split, *, most: int | None = None) -> Figures:
    """Figures of ``model``, in evaluation mode, on a split."""
    task = setting.task(model)
    return evaluate(model, split, setting.data.preprocessing, task, setting.runtime, most=most)


def scores_of(setting: Setting, model: nn.Module) -> Scores:
    """Figures of ``model``, in evaluation mode, on every split."""
    data = setting.data
    train = figures_on(setting, model, data.train, most=MOST_TRAINING_SAMPLES)
    validation = None if data.validation is None else figures_on(setting, model, data.validation)
    test = figures_on(setting, model, data.test)
    return Scores(
        accuracy=Splits(train=train.top1, validation=validation and validation.top1, test=test.top1),
        top5=Splits(train=train.top5, validation=validation and validation.top5, test=test.top5),
        loss=Splits(train=train.loss, validation=validation and validation.loss, test=test.loss),
    )


def sampled_scores(setting: Setting, method: Method, model: nn.Module) -> Scores | None:
    """Figures of the weights that training sees, for one draw of them; None where they are the collapsed model's."""
    context = method.sampled(model)
    if context is None:
        return None
    with context:
        return scores_of(setting, model)


def diagnose(setting: Setting, model: nn.Module) -> Diagnostics:
    """What the spec's ``diagnostics`` ask of an expanded model; nothing of one without copies."""
    asked = setting.spec.diagnostics
    spread = kernel_spread(model) if "spread" in asked else {}
    sharpness = _sharpness(setting, model) if "sharpness" in asked and majority_copies(model) else None
    return Diagnostics(
        sharpness=sharpness and sharpness.delta,
        sharpness_error=sharpness and sharpness.standard_error,
        spread=sum(spread.values()) / len(spread) if spread else None,
    )


def _sharpness(setting: Setting, model: nn.Module) -> Sharpness:
    data, most = setting.data, MOST_TRAINING_SAMPLES
    size = setting.runtime.evaluation_batch
    batches = list(evaluation_batches(data.train, data.preprocessing, batch_size=size, most=most))
    return stochastic_sharpness(model, batches, setting.task(model).compute_loss, draws=DRAWS)
