"""The empirical neural tangent kernel by its plain definition, through ``torch.func``; the test of every fast path.

K(x, x') = ∇_θ F(x) · ∇_θ F(x') for a scalar F, of any ``nn.Module``, and of a chain under the NTK parameterization, in
which biases are zero and enter the kernel at unit rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any, assert_never, cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from collegium.search.kernel.receptive_field import input_window, windows
from collegium.search.networks.activation import Activation
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.networks.pooling import Pooling
from collegium.search.sampling.normals import covariance_root, joint_gram


def empirical_kernel(module: nn.Module, left: Tensor, right: Tensor | None = None) -> Tensor:
    """K(x, x') at the module's present parameters, ``(left inputs, right inputs)``.

    ``module`` maps a batch of inputs to one scalar each. Every parameter counts, whatever its ``requires_grad``.
    """
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    gradients = vmap(grad(_scalar(module)), in_dims=(None, 0))
    rows = gradients(parameters, left)
    columns = rows if right is None else gradients(parameters, right)
    return torch.stack([rows[name].flatten(1) @ columns[name].flatten(1).T for name in parameters]).sum(0)


def kernel_samples(
    module: nn.Module, left: Tensor, right: Tensor, count: int, generator: Generator, chunk: int = 64
) -> Tensor:
    """``count`` samples of K(left, right), ``(count,)``, each under standard normal weights of its own.

    That is initialization under the NTK parameterization, where gains are part of the module. Parameters that are
    called ``bias`` are zero. ``left`` and ``right`` are single inputs, without a batch dimension.
    """
    gradients = vmap(grad(_scalar(module)), in_dims=(0, None))
    shapes = dict(module.named_parameters())
    found = []
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        drawn = {
            name: torch.zeros(size, *value.shape, device=value.device, dtype=value.dtype)
            if name.rpartition(".")[2] == "bias"
            else torch.randn(size, *value.shape, generator=generator, device=value.device, dtype=value.dtype)
            for name, value in shapes.items()
        }
        rows = gradients(drawn, left)
        columns = rows if left is right else gradients(drawn, right)
        found.append(sum((rows[name] * columns[name]).flatten(1).sum(1) for name in shapes))
    return torch.cat(found)


def _scalar(module: nn.Module):
    """F(θ, x) for one input ``x`` without a batch dimension."""
    return lambda parameters, x: functional_call(module, parameters, (x.unsqueeze(0),)).squeeze()


class _NtkConv(_ConvNd):
    """A convolution √(gain/fan_in) W ∗ x + b: the NTK parameterization (Littwin et al. 2020, Eq. 3)."""

    axes = 0
    _conv_forward: Callable[..., Tensor]

    def __init__(self, channels: int, layer: WeightLayer, out: int, gain: float, *, bias: bool):
        along = [layer.along(axis) for axis in range(-self.axes, 0)]
        names = {"kernel_size": "kernel", "stride": "stride", "padding": "padding", "dilation": "dilation"}
        sizes: dict[str, Any] = {name: tuple(getattr(axis, own) for axis in along) for name, own in names.items()}
        super().__init__(channels, out, **sizes, groups=layer.groups, bias=bias)
        self.scale = sqrt(gain / self.weight[0].numel())

    def reset_parameters(self) -> None:
        """Standard normal weights, and zero biases."""
        _reset(self)

    def forward(self, input: Tensor) -> Tensor:
        """``(samples, channels, height, width)`` → the map after the convolution; with a depth of a ``NtkConv3d``."""
        return self._conv_forward(input, self.scale * self.weight, self.bias)


class NtkConv2d(_NtkConv, nn.Conv2d):
    """Of maps ``(samples, channels, height, width)``."""

    axes = 2


class NtkConv3d(_NtkConv, nn.Conv3d):
    """Of maps ``(samples, channels, depth, height, width)``."""

    axes = 3


class PoolModule(nn.Module):
    """A pool as torch's own functions have it."""

    def __init__(self, pool: Pooling):
        super().__init__()
        self._name = ("max_pool", "avg_pool")[pool.function == "average"]
        outputs = [axis.output for axis in pool.axes]
        if any(output is not None for output in outputs):
            self._name, given = f"adaptive_{self._name}", {"output_size": outputs}
        else:
            names = {"kernel_size": "kernel", "stride": "stride", "padding": "padding"}
            names |= {"dilation": "dilation"} if pool.function == "max" else {}
            given = {name: [getattr(axis, own) for axis in pool.axes] for name, own in names.items()}
            given |= {"ceil_mode": pool.axes[0].ceil_mode}
            given |= {"count_include_pad": pool.count_padding} if pool.function == "average" else {}
        self._apply_to = getattr(functional, f"{self._name}{len(pool.axes)}d")
        self._given = given

    def forward(self, input: Tensor) -> Tensor:
        """``(samples, channels, height, width)`` → the pooled map."""
        return self._apply_to(input, **self._given)


class NtkLinear(nn.Linear):
    """A dense layer √(gain/fan_in) W x + b: the NTK parameterization (Littwin et al. 2020, Eq. 3)."""

    def __init__(self, inputs: int, out: int, gain: float, *, bias: bool):
        super().__init__(inputs, out, bias=bias)
        self.scale = sqrt(gain / inputs)

    def reset_parameters(self) -> None:
        """Standard normal weights, and zero biases."""
        _reset(self)

    def forward(self, input: Tensor) -> Tensor:
        """``(samples, inputs)`` → ``(samples, out)``."""
        return functional.linear(input, self.scale * self.weight, self.bias)


def _reset(layer: _ConvNd | nn.Linear) -> None:
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Entry(nn.Module):
    """Output channel 0 of a feature map: at one ``position``, or averaged over all."""

    def __init__(self, position: tuple[int, ...] | None):
        super().__init__()
        self.position = position

    def forward(self, features: Tensor) -> Tensor:
        """``(samples, channels, height, width)`` or ``(samples, channels)`` → ``(samples,)``."""
        if features.ndim == 2:
            return features[:, 0]
        if self.position is None:
            return features[:, 0].flatten(1).mean(1)
        return features[(slice(None), 0, *self.position)]


def module_of_activation(activation: Activation) -> nn.Module:
    """The activation as torch's own module."""
    parameter = activation.parameter or 0.0
    match activation.name:
        case "relu":
            return nn.ReLU()
        case "leaky_relu":
            return nn.LeakyReLU(parameter)
        case "relu6":
            return nn.ReLU6()
        case "gelu":
            return nn.GELU()
        case "gelu_tanh":
            return nn.GELU(approximate="tanh")
        case "silu":
            return nn.SiLU()
        case "mish":
            return nn.Mish()
        case "hardswish":
            return nn.Hardswish()
        case "sigmoid":
            return nn.Sigmoid()
        case "tanh":
            return nn.Tanh()
        case "elu":
            return nn.ELU(parameter)
        case "selu":
            return nn.SELU()
        case "celu":
            return nn.CELU(parameter)
        case "softplus":
            return nn.Softplus()
        case "linear":
            return nn.Identity()
    assert_never(activation.name)


def module_of(chain: Chain, widths: Sequence[int], entry: str) -> nn.Sequential:
    """The chain at ``widths`` as a module: ``(samples, channels, height, width)`` → its ``entry``, ``(samples,)``.

    Weights are standard normal, from torch's global generator, and biases zero. Raises ``ValueError`` for an unknown
    entry.
    """
    concrete = chain.at(widths)
    shapes = concrete.shapes(())
    stack: list[nn.Module] = []
    flat = False
    for layer, gain, bias, shape, (out, *_) in zip(
        concrete.layers, concrete.gains, concrete.biases, shapes[:-1], shapes[1:], strict=True
    ):
        match layer.kind:
            case "dense":
                stack += [] if flat else [nn.Flatten()]
                stack.append(NtkLinear(prod(shape), out, gain, bias=bias))
                flat = True
            case "conv":
                stack += [nn.Unflatten(1, shape)] if flat else []
                more = [end for axis in range(-1, -len(shape), -1) for end in (0, layer.along(axis).more)]
                stack += [nn.ConstantPad2d(cast("Any", tuple(more)), 0.0)] if any(more) else []  # of any number of axes
                made = NtkConv2d if len(shape) == 3 else NtkConv3d
                stack.append(made(shape[0], layer, out, gain, bias=bias))
                flat = False
            case _:
                assert_never(layer.kind)
        following: list[nn.Module] = [PoolModule(pool) for pool in layer.pools]
        if layer.activation != "linear":
            following.insert(layer.early, module_of_activation(layer.phi))
        stack += following
    last = windows(concrete, entry)[-1]
    return nn.Sequential(*stack, Entry(None if entry == "pooled" else last.starts))


def inputs_with_gram(chain: Chain, entry: str, gram: np.ndarray, pair: float | None = None) -> tuple[Tensor, Tensor]:
    """Inputs x and x', float64, with (2/channels) XᵀX = ``gram`` on the entry's window.

    They are ``(channels, height, width)``, with a depth before the height where the chain has one, and zero outside the
    window; x' is x itself, or at cosine ``pair`` to x. Each group of the first layer has the same Gram matrix, or its
    own of ``gram`` ``(groups, P, P)``. Raises ``ValueError`` where a group has fewer channels than its joint Gram has
    rank.
    """
    window, groups = input_window(chain, entry), chain.first_groups
    grams = np.broadcast_to(np.asarray(gram), (groups, *np.shape(gram)[-2:]))
    channels, rest = divmod(chain.channels, groups)
    flat = np.zeros((groups, channels, len(joint_gram(grams[0], pair))))
    for own, matrix in zip(flat, grams, strict=True):
        root = covariance_root(joint_gram(matrix, pair))
        if rest or root.shape[1] > channels:
            raise ValueError(f"{groups} groups of {root.shape[1]} channels do not fit into {chain.channels}")
        own[: root.shape[1]] = root.T * np.sqrt(channels / 2)
    flat = flat.reshape(chain.channels, -1)
    maps = []
    for part in (flat[:, : window.positions], flat[:, -window.positions :]):
        x = torch.zeros(chain.channels, *chain.extents, dtype=torch.float64)
        ends = [slice(start, start + size) for start, size in zip(window.starts, window.sizes, strict=True)]
        x[(slice(None), *ends)] = torch.as_tensor(part).unflatten(1, window.sizes)
        maps.append(x)
    return maps[0], maps[0] if pair is None else maps[1]
