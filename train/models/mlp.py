"""Ensembles of fully connected ReLU networks, computed side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from train.models.members import HeLinear, MemberLinear


class MlpEnsemble(nn.Module):
    """m MLPs on one input, their outputs summed and scaled: F(x) = m^{-1/2} Σ_j f_j(x) (Littwin et al. 2020, Eq. 4).

    ``layers.0`` maps the shared input to all members at once, the middle layers are block-diagonal
    (:class:`~train.models.members.MemberLinear`, or plain linear layers where m = 1), and the last one sums over the
    members' concatenated features. Each weight starts as N(0, 2/fan_in), the output's as N(0, 1/fan_in), so that at
    initialization the function is that of the NTK parameterization (Eq. 3). The members share the output's bias.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, members: int = 1, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.members, self.inputs, self.outputs = members, inputs, outputs
        layers: list[nn.Module] = [HeLinear(inputs, members * hidden[0], bias=bias)]
        for fan_in, width in pairwise(hidden):
            block_diagonal = members > 1
            layers.append(
                MemberLinear(members, fan_in, width, bias=bias)
                if block_diagonal
                else HeLinear(fan_in, width, bias=bias)
            )
        layers.append(HeLinear(members * hidden[-1], outputs, bias=bias, gain=1.0, members=members))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(batch, outputs)`` of inputs ``(batch, …)``, flattened."""
        first, *middle, last = self.layers
        h = functional.relu(first(x.flatten(1)))  # (batch, m·n)
        if middle and self.members > 1:
            h = h.unflatten(1, (self.members, -1)).transpose(0, 1)  # (m, batch, n)
            for layer in middle:
                h = functional.relu(layer(h))
            h = h.transpose(0, 1).flatten(1)  # (batch, m·n)
        else:
            for layer in middle:
                h = functional.relu(layer(h))
        return last(h if self.members == 1 else h * (1 / math.sqrt(self.members)))
