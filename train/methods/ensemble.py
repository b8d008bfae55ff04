"""An ensemble of e independent models, evaluated by averaging: the bound that others are measured against."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from train.method import Evaluate
from train.methods.vanilla import Vanilla


class AveragedModels(nn.Module):
    """Models whose averaged probabilities are the prediction; returned as logarithms, which any loss of logits takes."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)

    @property
    def models(self) -> int:
        """How many models are averaged."""
        return len(self.members)

    @property
    def config(self) -> Any:
        """The configuration that all members share, where they have one."""
        return self.members[0].config

    def forward(self, *inputs: Tensor, **named: Any) -> Any:
        """Return ln of the mean probability, in the shape of one model's logits."""
        outputs = [member(*inputs, **named) for member in self.members]
        if isinstance(outputs[0], Tensor):
            return mean_log_probability(outputs)
        outputs[0].logits = mean_log_probability([output.logits for output in outputs])
        return outputs[0]


def mean_log_probability(logits: Sequence[Tensor]) -> Tensor:
    """ln of the mean over models of softmax(logits), computed without leaving logarithms."""
    stacked = torch.stack([torch.log_softmax(one.float(), -1) for one in logits])
    return torch.logsumexp(stacked, 0) - torch.log(torch.tensor(float(len(logits)), device=stacked.device))


class Ensemble(Vanilla):
    """e models from their own seeds (Mazzawi et al. 2024, section 4.1); inference costs e times a single model's."""

    name = "ensemble"
    trains = False

    def __init__(self, expansion: int = 3) -> None:
        super().__init__(expansion)
        self.members = expansion

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
        """Average the members' probabilities."""
        return AveragedModels(models)
