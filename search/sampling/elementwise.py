"""Activations φ and their derivatives on tensors, by torch's own kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from collegium.search.networks.activation import Activation

aten = torch.ops.aten

#: φ(z, parameter) by its name.
_VALUES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "relu": lambda z, _: functional.relu(z),
    "leaky_relu": lambda z, slope: functional.leaky_relu(z, slope),
    "gelu": lambda z, _: functional.gelu(z),
    "silu": lambda z, _: functional.silu(z),
    "tanh": lambda z, _: torch.tanh(z),
    "elu": lambda z, alpha: functional.elu(z, alpha),
    "softplus": lambda z, _: functional.softplus(z),
    "linear": lambda z, _: z,
}
#: y φ'(z) of (y, z, φ(z), parameter), by its name.
_PULLBACKS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "relu": lambda y, z, a, _: aten.threshold_backward(y, a, 0),
    "leaky_relu": lambda y, z, a, slope: aten.leaky_relu_backward(y, z, slope, False),
    "gelu": lambda y, z, a, _: aten.gelu_backward(y, z),
    "silu": lambda y, z, a, _: aten.silu_backward(y, z),
    "tanh": lambda y, z, a, _: aten.tanh_backward(y, a),
    "elu": lambda y, z, a, alpha: aten.elu_backward(y, alpha, 1, 1, False, z),
    "softplus": lambda y, z, a, _: aten.softplus_backward(y, z, 1, 20),
    "linear": lambda y, z, a, _: y,
}


def activated(activation: Activation, z: Tensor) -> Tensor:
    """φ(z), which may be ``z`` itself."""
    return _VALUES[activation.name](z, activation.parameter or 0.0)


def pulled_back(activation: Activation, gradient: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """∂F/∂z from the ``gradient`` ∂F/∂a at a = φ(z); it may be ``gradient`` itself."""
    return _PULLBACKS[activation.name](gradient, z, a, activation.parameter or 0.0)
