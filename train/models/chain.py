"""Ensembles of any chain of convolutions and dense layers: the ``block`` family of a search, as a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from search.chain import Chain, WeightLayer
from train.models.members import HeConv2d, MemberLinear


class ChainEnsemble(nn.Module):
    """m copies of a chain on one input: m^{-1/2} Σ_j f_j(x), averaged over the positions of the last feature map.

    The members of a convolution are groups of one grouped convolution; those of a dense layer are the blocks of a
    block-diagonal matrix. Weights start as N(0, 2/fan_in) before a ReLU and N(0, 1/fan_in) elsewhere.
    """

    def __init__(self, chain: Chain, widths: Sequence[int], members: int = 1) -> None:
        super().__init__()
        self.members = members
        fixed = chain.at(widths)
        shapes = fixed.shapes(())
        self.inputs, self.outputs = shapes[0], shapes[-1][0]
        self.gates = [layer.activation == "relu" for layer in fixed.layers]
        self.shared_input = fixed.layers[0].kind == "conv" and fixed.layers[0].groups == 1
        self.layers = nn.ModuleList(
            self._layer(layer, shape, shared=index == 0 and self.shared_input)
            for index, (layer, shape) in enumerate(zip(fixed.layers, shapes, strict=False))
        )

    def _layer(self, layer: WeightLayer, shape: tuple[int, int, int], *, shared: bool) -> nn.Module:
        channels, height, width = shape
        gain = math.sqrt(2) if layer.activation == "relu" else 1.0
        assert isinstance(layer.out, int)
        if layer.kind == "dense":
            return MemberLinear(self.members, channels * height * width, layer.out, bias=False, gain=gain)
        inputs, groups = (channels, 1) if shared else (channels * self.members, layer.groups * self.members)
        return HeConv2d(
            inputs,
            layer.out * self.members,
            layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            groups=groups,
            gain=gain,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(batch, outputs)`` of inputs ``(batch, channels, height, width)``."""
        if not self.shared_input:
            x = x.repeat(1, self.members, 1, 1)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            x = self._dense(layer, x) if isinstance(layer, MemberLinear) else layer(x)
            x = functional.relu(x) if gate else x
        scores = x.mean((2, 3)).unflatten(1, (self.members, -1))  # (batch, m, outputs)
        return scores.sum(1) * (1 / math.sqrt(self.members))

    def _dense(self, layer: MemberLinear, x: Tensor) -> Tensor:
        members_first = x.flatten(1).unflatten(1, (self.members, -1)).transpose(0, 1)
        return layer(members_first).transpose(0, 1).flatten(1)[:, :, None, None]
