"""Collegial ensembles: m small networks on one input, computed side by side, their outputs summed.

This file travels with every checkpoint of such a network, so it needs torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: φ(z, parameter) by its name; ``linear`` is the identity.
ACTIVATIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "relu": lambda z, _: functional.relu(z),
    "leaky_relu": lambda z, slope: functional.leaky_relu(z, slope),
    "relu6": lambda z, _: functional.relu6(z),
    "gelu": lambda z, _: functional.gelu(z),
    "gelu_tanh": lambda z, _: functional.gelu(z, approximate="tanh"),
    "silu": lambda z, _: functional.silu(z),
    "mish": lambda z, _: functional.mish(z),
    "hardswish": lambda z, _: functional.hardswish(z),
    "sigmoid": lambda z, _: torch.sigmoid(z),
    "tanh": lambda z, _: torch.tanh(z),
    "elu": lambda z, alpha: functional.elu(z, alpha),
    "selu": lambda z, _: functional.selu(z),
    "celu": lambda z, alpha: functional.celu(z, alpha),
    "softplus": lambda z, _: functional.softplus(z),
    "linear": lambda z, _: z,
}


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(f"no activation is called {activation!r}; there are {', '.join(ACTIVATIONS)}")
    return activation


class HeLinear(nn.Linear):
    """A linear layer with weights N(0, gain² / fan_in) and zero biases.

    ``members``: an output layer that sums over the concatenated features of m members has the fan-in of one of them.
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
    """One linear layer for each of m members, a block-diagonal matrix kept as its blocks.

    Maps ``(members, batch, inputs)`` to ``(members, batch, outputs)``. ``weight`` has the shape
    ``(members, inputs, outputs)``, ``bias`` ``(members, 1, outputs)``; weights start as N(0, gain² / inputs), biases
    at zero.
    """

    majority_kernels = ("weight",)  # what ``expand`` may expand here, as it would a linear layer's weight

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


class HeConv2d(nn.Conv2d):
    """A convolution without bias, with weights N(0, gain² / fan_in)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, gain: float, **geometry: Any) -> None:
        self.gain = gain
        super().__init__(inputs, outputs, kernel, bias=False, **geometry)

    def reset_parameters(self) -> None:
        """Draw the weights anew from the global generator."""
        nn.init.normal_(self.weight, std=self.gain / math.sqrt(self.weight[0].numel()))


class MlpEnsemble(nn.Module):
    """m MLPs on one input: F(x) = m^{-1/2} Σ_j f_j(x) (Littwin et al. 2020, Eq. 4).

    ``layers.0`` maps the shared input to all members at once, the middle layers are block-diagonal (plain linear
    layers where m = 1), and the last one sums over the members' concatenated features. Weights start as
    N(0, 2/fan_in), the output's as N(0, 1/fan_in), so that at initialization the function is that of the NTK
    parameterization (Eq. 3). The members share the output's bias.

    Another ``activation`` than a ReLU, with its ``parameter``, comes with the variance ``gains`` of all layers, which
    take the place of 2 and 1. In training mode each hidden activation is set to zero with the probability ``dropout``.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        members: int = 1,
        bias: bool = False,
        activation: str = "relu",
        parameter: float | None = None,
        gains: Sequence[float] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.members, self.inputs, self.outputs = members, inputs, outputs
        self.activation, self.parameter = _known(activation), parameter
        scales = [math.sqrt(gain) for gain in gains or (*[2.0] * len(hidden), 1.0)]
        middle = (
            MemberLinear(members, fan_in, width, bias=bias, gain=gain)
            if members > 1
            else HeLinear(fan_in, width, bias=bias, gain=gain)
            for (fan_in, width), gain in zip(pairwise(hidden), scales[1:-1], strict=True)
        )
        first = HeLinear(inputs, members * hidden[0], bias=bias, gain=scales[0])
        last = HeLinear(members * hidden[-1], outputs, bias=bias, gain=scales[-1], members=members)
        self.layers = nn.ModuleList([first, *middle, last])

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, outputs)`` of inputs ``(batch, …)``, flattened."""
        first, *middle, last = self.layers
        h = self._activated(first(x.flatten(1)))  # (batch, m·n)
        if self.members == 1:
            for layer in middle:
                h = self._activated(layer(h))
            return last(h)
        h = h.unflatten(1, (self.members, -1)).transpose(0, 1)  # (m, batch, n)
        for layer in middle:
            h = self._activated(layer(h))
        return last(h.transpose(0, 1).flatten(1) * (1 / math.sqrt(self.members)))

    def _activated(self, z: Tensor) -> Tensor:
        return self.dropout(ACTIVATIONS[self.activation](z, self.parameter))


class ChainEnsemble(nn.Module):
    """m copies of a chain of layers on one input, summed and scaled, averaged over the last map's positions.

    ``layers`` gives each layer as ``{kind, inputs, out, relu}`` per member, a convolution also its ``kernel``,
    ``stride``, ``padding`` and ``groups``; ``inputs`` counts the flattened features of a dense layer. The members of a
    convolution are groups of one grouped convolution, those of a dense layer the blocks of a block-diagonal matrix.
    Weights start as N(0, 2/fan_in) before a ReLU and N(0, 1/fan_in) elsewhere, unless a layer has a variance ``gain``
    of its own; another ``activation`` than a ReLU, with its ``parameter``, goes with ``relu`` false. In training mode
    what each layer but the last leaves, after its activation, is set to zero with the probability ``dropout``.
    """

    def __init__(self, layers: Sequence[dict[str, Any]], members: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.members = members
        self.activations = [
            ("relu" if layer["relu"] else _known(layer.get("activation", "linear")), layer.get("parameter"))
            for layer in layers
        ]
        self.shared_input = layers[0]["kind"] == "conv" and layers[0]["groups"] == 1
        self.layers = nn.ModuleList(
            self._layer(shared=index == 0 and self.shared_input, **layer) for index, layer in enumerate(layers)
        )

    def _layer(self, *, kind: str, inputs: int, out: int, relu: bool, shared: bool, **others: Any) -> nn.Module:
        gain = math.sqrt(others.get("gain", 2.0 if relu else 1.0))
        geometry = {name: value for name, value in others.items() if name not in ("activation", "parameter", "gain")}
        m = self.members
        if kind == "dense":
            return MemberLinear(m, inputs, out, bias=False, gain=gain)
        if kind != "conv":
            raise ValueError(f"no layer is of kind {kind!r}; there are conv, dense")
        kernel, groups = geometry.pop("kernel"), geometry.pop("groups")
        if shared:
            return HeConv2d(inputs, out * m, kernel, gain=gain, groups=1, **geometry)
        return HeConv2d(inputs * m, out * m, kernel, gain=gain, groups=groups * m, **geometry)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, outputs)`` of inputs ``(batch, channels, height, width)``."""
        if not self.shared_input:
            x = x.repeat(1, self.members, 1, 1)
        for index, (layer, (activation, parameter)) in enumerate(zip(self.layers, self.activations, strict=True)):
            x = self._dense(layer, x) if isinstance(layer, MemberLinear) else layer(x)
            x = ACTIVATIONS[activation](x, parameter)
            if index + 1 < len(self.layers):
                x = self.dropout(x)
        logits = x.mean((2, 3)).unflatten(1, (self.members, -1))  # (batch, m, outputs)
        return logits.sum(1) * (1 / math.sqrt(self.members))

    def _dense(self, layer: MemberLinear, x: Tensor) -> Tensor:
        members_first = x.flatten(1).unflatten(1, (self.members, -1)).transpose(0, 1)
        return layer(members_first).transpose(0, 1).flatten(1)[:, :, None, None]
