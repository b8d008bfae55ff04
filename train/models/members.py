"""Layers that hold one weight for each member of an ensemble: block-diagonal matrices, kept as their blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class HeLinear(nn.Linear):
    """A linear layer with weights N(0, gain² / fan_in) and zero biases.

    ``members`` of an output layer that sums over the concatenated members: the fan-in that sets the variance is that
    of one of them.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool, gain: float = math.sqrt(2), members: int = 1) -> None:
        self.gain, self.members = gain, members
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weights anew from the global generator."""
        nn.init.normal_(self.weight, std=self.gain * math.sqrt(self.members / self.in_features))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class MemberLinear(nn.Module):
    """One linear layer for each of m members: ``(members, batch, inputs)`` → ``(members, batch, outputs)``.

    ``weight`` has the shape ``(members, inputs, outputs)``, ``bias`` ``(members, 1, outputs)``; weights start as
    N(0, gain² / inputs), biases at zero.
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, bias: bool, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew from the global generator."""
        nn.init.normal_(self.weight, std=self.gain / math.sqrt(self.weight.shape[1]))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's matrix to its own slice."""
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        members, inputs, outputs = self.weight.shape
        return f"members={members}, inputs={inputs}, outputs={outputs}, bias={self.bias is not None}"


class HeConv2d(nn.Conv2d):
    """A convolution without bias, with weights N(0, gain² / fan_in)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, padding: int, groups: int, gain: float):
        self.gain = gain
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew from the global generator."""
        nn.init.normal_(self.weight, std=self.gain / math.sqrt(self.weight[0].numel()))
