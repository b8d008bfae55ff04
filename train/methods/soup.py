"""Model soups (Wortsman et al. 2022; Mazzawi et al. 2024, Table 4): averages of weights that share a starting point."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from collegium.train.methods.ensemble import EnsembleOptions
from collegium.train.methods.method import Evaluate, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


class SoupOptions(EnsembleOptions):
    """How many models are trained, and which of them are averaged."""

    soup: Literal["greedy", "uniform"] = Field(
        "greedy",
        description="uniform: average all models; greedy: begin with the best on the validation split and take in "
        "others, best first, where the average does not get worse there",
    )


class Soup(Method):
    """``copies`` trainings from the same weights, in different orders of the data, averaged in weight space."""

    name = "soup"
    summary = "trainings from one start in different orders of the data, averaged in weight space"
    Options = SoupOptions
    trains = False
    shared_start = True

    @property
    def independent_models(self) -> int:
        """Every model that may be averaged."""
        return self.options.copies

    @property
    def needs_validation(self) -> bool:
        """Whether the models are chosen by validation samples."""
        return self.options.soup == "greedy"

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
        """One plain model. Its batch norms' statistics are averages, to be estimated anew."""
        return uniform_soup(models) if self.options.soup == "uniform" else greedy_soup(models, evaluate)


def uniform_soup(models: Sequence[nn.Module]) -> nn.Module:
    """Average of the weights of ``models``, which have one architecture; integer buffers are the first model's."""
    soup = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    mean = {name: _mean([state[name] for state in states]) for name in states[0]}
    soup.load_state_dict(mean)
    return soup


def _mean(values: Sequence[Tensor]) -> Tensor:
    import torch

    if not values[0].is_floating_point():
        return values[0]
    return torch.stack([value.float() for value in values]).mean(0).to(values[0].dtype)


def greedy_soup(models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
    """Best single model, then every other in order of its accuracy if it does not lower that of the average."""
    accuracies = [evaluate(model) for model in models]
    order = sorted(range(len(models)), key=lambda i: -accuracies[i])
    chosen, best = [models[order[0]]], accuracies[order[0]]
    soup = uniform_soup(chosen)
    for i in order[1:]:
        candidate = uniform_soup([*chosen, models[i]])
        accuracy = evaluate(candidate)
        if accuracy >= best:
            chosen, best, soup = [*chosen, models[i]], accuracy, candidate
    return soup
