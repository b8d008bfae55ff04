"""A transformer as an exported program, which torch runs without the library that defined it.

This file travels with every checkpoint of a transformer, so it needs torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "model."


class Program(nn.Module):
    """Logits of a batch of tokens; of its labels too, token by token, where those are sequences."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._program: Any = torch.export.load(Path(__file__).with_name(file)).module()

    def forward(self, *batch: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of inputs, or ``(batch, tokens, vocabulary)`` of inputs and labels."""
        return self._program(*batch)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take the weights of ``model.safetensors``; weights that are tied are there under one of their names."""
        own = self._program.state_dict()
        unknown = [name for name in state_dict if PREFIX + name not in own]
        if unknown:
            raise KeyError(f"the program has no weight {unknown[0]!r}")
        return self._program.load_state_dict({PREFIX + k: v for k, v in state_dict.items()}, strict=False)

    def train(self, mode: bool = True) -> Program:
        """Stay as exported: in evaluation mode."""
        return self
