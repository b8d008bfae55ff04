"""Model soups (Wortsman et al. 2022; Mazzawi et al. 2024, Table 4): weights averaged after separate trainings."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from train.method import Evaluate
from train.methods.vanilla import Vanilla


class Soup(Vanilla):
    """e models that share their start and differ in the order of their data, averaged in weight space.

    ``uniform`` averages all. ``greedy`` takes the models from the best on validation to the worst, and keeps each
    that does not make the average worse.
    """

    name = "soup"
    shared_start = True
    trains = False

    def __init__(self, expansion: int = 3, *, recipe: Literal["uniform", "greedy"] = "greedy") -> None:
        super().__init__(expansion)
        self.members = expansion
        self._recipe = recipe

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
        """Average the members; ``greedy`` asks ``evaluate`` once for each member and for each candidate."""
        if self._recipe == "uniform":
            return averaged(models)
        return greedy(models, evaluate)


def averaged(models: Sequence[nn.Module]) -> nn.Module:
    """A new model whose floating-point parameters and buffers are the means of those of ``models``."""
    result = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    mean: dict[str, Any] = {name: _mean([state[name] for state in states]) for name in states[0]}
    result.load_state_dict(mean)
    return result


def _mean(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], Tensor) or not values[0].is_floating_point():
        return values[0]
    return torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)


def greedy(models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
    """The greedy soup: members from best to worst, each kept if the average with it scores at least as well."""
    scores = [evaluate(copy.deepcopy(model)) for model in models]
    order = sorted(range(len(models)), key=lambda index: -scores[index])
    kept, best = [models[order[0]]], scores[order[0]]
    for index in order[1:]:
        candidate = averaged([*kept, models[index]])
        score = evaluate(candidate)
        if score >= best:
            kept, best = [*kept, models[index]], score
    return averaged(kept)
