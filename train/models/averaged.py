"""Several models whose outputs are averaged.

This file travels with every checkpoint of an ensemble, so it needs torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class AveragedModel(nn.Module):
    """f(x) = 1/e Σ_i f_i(x) of ``models`` separate models."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)  # ``members`` names them in checkpoints
        self.models = len(networks)
        self.config = getattr(networks[0], "config", None)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Mean of the models' outputs: tensors, or the ``logits`` of outputs that have them."""
        outputs = [model(*inputs, **named) for model in self.members]
        if isinstance(outputs[0], Tensor):
            return torch.stack(outputs).mean(0)
        return SimpleNamespace(logits=torch.stack([output.logits for output in outputs]).mean(0))
