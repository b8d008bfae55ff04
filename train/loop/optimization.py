"""The recipes' optimizers, and learning rates as a function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from collegium.train.spec.recipes import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over every parameter that is trained, its update fused over all of them."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)


def rate_at(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of each optimizer step, counted from 0; nothing else needs to be kept for a resumed run.

    Milestones fall on epoch boundaries. A warm-up rises linearly and reaches the full rate in its last step.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    total = recipe.epochs * steps_per_epoch

    def decay(step: int) -> float:
        epoch = step // steps_per_epoch
        if recipe.schedule == "step":
            return recipe.factor ** (epoch // recipe.step_epochs)
        if recipe.schedule == "multistep":
            return recipe.factor ** bisect_right(recipe.milestones, epoch)
        if recipe.schedule == "cosine":
            progress = (step - warmup) / max(1, total - warmup)
            return recipe.final_rate + (1 - recipe.final_rate) * (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    def rate(step: int) -> float:
        if step < warmup:
            return recipe.learning_rate * (step + 1) / warmup
        return recipe.learning_rate * decay(step)

    return rate
