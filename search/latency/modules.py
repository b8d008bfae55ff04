"""Modules of segments that are plain sequences of torch's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def sequence(layers: Sequence[tuple[str, Sequence[Any], dict[str, Any]]]) -> nn.Sequential:
    """Layers of ``torch.nn`` in order, each by its name, its arguments and its keyword arguments.

    >>> sequence([("Linear", (3, 2), {"bias": False}), ("ReLU", (), {})])
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=False)
      (1): ReLU()
    )
    """
    return nn.Sequential(*(getattr(nn, name)(*positional, **named) for name, positional, named in layers))
