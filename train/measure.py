"""Figures of a trained model on every split, and what diagnostics ask of it."""

from __future__ import annotations

import math

import torch
from torch import nn

from train.data.dataset import Split
from train.evaluate import evaluate
from train.figures import Figures
from train.fused import majority_copies
from train.method import Method
from train.result import Diagnostics, Scores, Splits
from train.setting import Setting

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


def diagnose(setting: Setting, method: Method, model: nn.Module) -> Diagnostics:
    """What the spec's ``diagnostics`` ask of an expanded model."""
    asked = setting.spec.diagnostics
    return Diagnostics(
        sharpness=sharpness(setting, method, model) if "sharpness" in asked else None,
        spread=spread(model) if "spread" in asked else None,
    )


def sharpness(setting: Setting, method: Method, model: nn.Module) -> float | None:
    """|E_p L(θ_p) − L(θ̄)| over training samples (Mazzawi et al. 2024, Lemma B.1); None where nothing is sampled."""
    train, losses = setting.data.train, []
    for _ in range(DRAWS):
        context = method.sampled(model)
        if context is None:
            return None
        with context:
            losses.append(figures_on(setting, model, train, most=MOST_TRAINING_SAMPLES).loss)
    return abs(sum(losses) / DRAWS - figures_on(setting, model, train, most=MOST_TRAINING_SAMPLES).loss)


@torch.no_grad()
def spread(model: nn.Module) -> float | None:
    """How far the copies of the kernels have moved apart: √(mean_k |w_k − w̄|² / |w̄|²), over all kernels together.

    None for a model without copies, or whose mean is zero.
    """
    apart = mean = 0.0
    for _, copies in majority_copies(model):
        centre = copies.mean(0)
        apart += (copies - centre).square().sum().item() / len(copies)
        mean += centre.square().sum().item()
    return math.sqrt(apart / mean) if mean else None
