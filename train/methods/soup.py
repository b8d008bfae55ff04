"""Model soups (Wortsman et al. 2022; Mazzawi et al. 2024, Table 4): averages of weights that share a starting point."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from collegium.train.methods.method import Evaluate
from collegium.train.methods.vanilla import Vanilla


class Soup(Vanilla):
    """``expansion`` trainings from the same weights, in different orders of the data, averaged in weight space.

    ``selection``: ``"uniform"`` averages all; ``"greedy"`` starts from the best on the validation split and takes in
    others, best first, as long as the average does not get worse there.
    """

    name = "soup"
    trains = False
    shared_start = True

    def __init__(self, expansion: int = 3, *, selection: Literal["uniform", "greedy"] = "greedy") -> None:
        super().__init__(expansion)
        if selection not in ("uniform", "greedy"):
            raise ValueError(f"selection must be 'uniform' or 'greedy', not {selection!r}")
        self.independent_models, self.selection = expansion, selection

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
        """Return one plain model. Its batch norms' statistics are averages: estimate them again."""
        return uniform_soup(models) if self.selection == "uniform" else greedy_soup(models, evaluate)


def uniform_soup(models: Sequence[nn.Module]) -> nn.Module:
    """Average of the weights of ``models``, which have one architecture; integer buffers are the first model's."""
    soup = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    mean = {name: _mean([state[name] for state in states]) for name in states[0]}
    soup.load_state_dict(mean)
    return soup


def _mean(values: Sequence[Tensor]) -> Tensor:
    if not values[0].is_floating_point():
        return values[0]
    return torch.stack([value.float() for value in values]).mean(0).to(values[0].dtype)


def greedy_soup(models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
    """Best single model, then every other in order of its score if it does not lower the score of the average."""
    scores = [evaluate(model) for model in models]
    order = sorted(range(len(models)), key=lambda i: -scores[i])
    chosen, best = [models[order[0]]], scores[order[0]]
    soup = uniform_soup(chosen)
    for i in order[1:]:
        candidate = uniform_soup([*chosen, models[i]])
        score = evaluate(candidate)
        if score >= best:
            chosen, best, soup = [*chosen, models[i]], score, candidate
    return soup
