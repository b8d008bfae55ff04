"""Products of weight gradients without the gradients: what makes large networks affordable.

The gradient of a layer's weights is Σ_t δ_t a_tᵀ over the positions t of the batch, so two of them, of the logits i and
j, have the product Σ_ts (a_t · a_s)(δ_t^i · δ_s^j). Where a batch has few positions, as in the late stages of a
residual network, that is less work than the gradients themselves, which are as large as the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: How much cheaper a multiplication of the contraction must be: it works in smaller pieces.
MARGIN = 1.0


def contractible(layer: nn.Module) -> bool:
    """Whether the layer computes what ``_columns`` takes it to: a linear layer, or a convolution padded with zeros."""
    if isinstance(layer, nn.Conv2d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and type(layer).forward is nn.Conv2d.forward
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


class Contraction:
    """One layer's inputs a and the gradient δ of its outputs, as the last pass left them.

    ``columns`` has shape ``(groups, fan-in, positions)``, ``delta`` ``(groups, outputs, positions)``, over all
    positions of the batch.
    """

    columns: Tensor
    delta: Tensor

    def __init__(self, layer: Any, name: str) -> None:
        self.layer, self.name, self.calls, self.differentiable = layer, name, 0, False
        self._handle = layer.register_forward_hook(self._hook)

    def remove(self) -> None:
        """The layer as it was."""
        self._handle.remove()

    def pays(self, inputs: int) -> bool:
        """Whether the contraction over ``inputs`` logits is less work than their gradients, as of the last pass.

        A layer that is called more than once has a gradient of several terms, and is left alone.
        """
        if self.calls != 1:
            return False
        groups, fan_in, positions = self.columns.shape
        outputs = self.layer.weight.shape[0]
        contracted = positions**2 * (groups * fan_in + inputs * (inputs + 1) / 2 * outputs)
        return MARGIN * contracted < inputs * positions * outputs * fan_in

    def _hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.calls += 1
        self.columns = _columns(layer, inputs[0].detach())
        self.differentiable = output.requires_grad
        if output.requires_grad:
            output.register_hook(self._save)

    def _save(self, gradient: Tensor) -> None:
        self.delta = _deltas(self.layer, gradient)


def product(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
    """∂F_i/∂W · ∂F_j/∂W of one layer from the columns and δ of both."""
    return ((left[0].mT @ right[0]) * (left[1].mT @ right[1])).sum()


def _columns(layer: Any, x: Tensor) -> Tensor:
    """What each position's unit reads, ``(groups, fan-in, positions)``."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).T[None]
    if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        return _by_group(x[:, :, :: layer.stride[0], :: layer.stride[1]], layer.groups)
    columns = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return _by_group(columns[..., None], layer.groups)


def _deltas(layer: Any, gradient: Tensor) -> Tensor:
    """Gradients of a layer's outputs, ``(groups, outputs, positions)``."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(-1, gradient.shape[-1]).T[None]
    return _by_group(gradient, layer.groups)


def _by_group(maps: Tensor, groups: int) -> Tensor:
    """``(batch, channels, height, width)`` → ``(groups, channels of a group, positions of the batch)``."""
    batch, channels = maps.shape[:2]
    parts = maps.reshape(batch, groups, channels // groups, -1)
    return parts.permute(1, 2, 0, 3).reshape(groups, channels // groups, -1)


def choose(module: nn.Module, run: Callable[[], Any], inputs: int) -> list[Contraction]:
    """Contractions of those layers for which they pay, by one pass of ``run``; no others are left on the module."""
    watched = [Contraction(layer, f"{name}.weight") for name, layer in module.named_modules() if contractible(layer)]
    with torch.no_grad():
        run()
    chosen = [each for each in watched if each.pays(inputs)]
    for each in watched:
        if each not in chosen:
            each.remove()
    return chosen
