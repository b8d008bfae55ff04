"""Activations φ and their derivatives on tensors, by torch's own kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from collegium.search.networks.activation import SELU_ALPHA, SELU_SCALE, Activation

aten = torch.ops.aten

#: φ(z, parameter) by its name.
_VALUES: dict[str, Callable[[Tensor, float], Tensor]] = {
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
#: y φ'(z) of (y, z, φ(z), parameter), by its name.
_PULLBACKS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "relu": lambda y, z, a, _: aten.threshold_backward(y, a, 0),
    "leaky_relu": lambda y, z, a, slope: aten.leaky_relu_backward(y, z, slope, False),
    "relu6": lambda y, z, a, _: aten.hardtanh_backward(y, z, 0, 6),
    "gelu": lambda y, z, a, _: aten.gelu_backward(y, z),
    "gelu_tanh": lambda y, z, a, _: aten.gelu_backward(y, z, approximate="tanh"),
    "silu": lambda y, z, a, _: aten.silu_backward(y, z),
    "mish": lambda y, z, a, _: aten.mish_backward(y, z),
    "hardswish": lambda y, z, a, _: aten.hardswish_backward(y, z),
    "sigmoid": lambda y, z, a, _: aten.sigmoid_backward(y, a),
    "tanh": lambda y, z, a, _: aten.tanh_backward(y, a),
    "elu": lambda y, z, a, alpha: aten.elu_backward(y, alpha, 1, 1, False, z),
    "selu": lambda y, z, a, _: aten.elu_backward(y, SELU_ALPHA, SELU_SCALE, 1, False, z),
    "celu": lambda y, z, a, alpha: aten.elu_backward(y, alpha, 1, 1 / alpha, False, z),
    "softplus": lambda y, z, a, _: aten.softplus_backward(y, z, 1, 20),
    "linear": lambda y, z, a, _: y,
}


def activated(activation: Activation, z: Tensor) -> Tensor:
    """φ(z), which may be ``z`` itself."""
    return _VALUES[activation.name](z, activation.parameter or 0.0)


def pulled_back(activation: Activation, gradient: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """∂F/∂z from the ``gradient`` ∂F/∂a at a = φ(z); it may be ``gradient`` itself."""
    return _PULLBACKS[activation.name](gradient, z, a, activation.parameter or 0.0)
