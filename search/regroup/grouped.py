"""Layers of m members side by side in one tensor, as they stand in a network whose branches were regrouped.

This file needs torch alone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class GroupedLinear(nn.Module):
    """A block-diagonal linear layer: each of ``groups`` members maps its own inputs to its own outputs.

    Maps ``(…, groups · n_in)`` to ``(…, groups · n_out)`` as one batched product. ``weight`` has the shape
    ``(groups, n_out, n_in)``, ``bias`` ``(groups · n_out)``. ``in_features`` and ``out_features`` are those of all
    members together, as of a linear layer in its place.

    >>> layer = GroupedLinear(6, 4, groups=2)
    >>> layer(torch.randn(5, 6)).shape, sum(parameter.numel() for parameter in layer.parameters())
    (torch.Size([5, 4]), 16)
    """

    majority_kernels: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        groups: int,
        *,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features % groups or out_features % groups:
            raise ValueError(f"groups = {groups} must divide in_features {in_features} and out_features {out_features}")
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        shape = groups, out_features // groups, in_features // groups
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform between ±1/√n_in, as ``nn.Linear`` starts."""
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Every member's product with its own block."""
        members, outputs, inputs = self.weight.shape
        y = torch.einsum("...gi,goi->...go", x.unflatten(-1, (members, inputs)), self.weight)
        y = y.reshape(*x.shape[:-1], members * outputs)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, as they are printed."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, groups={self.groups}, "
            f"bias={self.bias is not None}"
        )


class GroupedLayerNorm(nn.Module):
    """A layer norm over the features of each of ``groups`` members alone; the last dimension holds all of them.

    ``weight`` and ``bias`` have one number for each feature of all members, and are None where ``affine`` is false.
    ``centered`` false is a norm by the root of the mean square.

    >>> x = torch.randn(4, 6)
    >>> torch.equal(GroupedLayerNorm(6, groups=2)(x)[:, :3], GroupedLayerNorm(3, groups=1)(x[:, :3]))
    True
    """

    def __init__(
        self,
        features: int,
        groups: int,
        *,
        eps: float = 1e-5,
        scale: bool = True,
        shift: bool = True,
        centered: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if features % groups:
            raise ValueError(f"groups = {groups} must divide features = {features}")
        self.normalized_shape, self.groups, self.eps, self.centered = (features,), groups, eps, centered
        self.weight = nn.Parameter(torch.ones(features, device=device, dtype=dtype)) if scale else None
        self.bias = nn.Parameter(torch.zeros(features, device=device, dtype=dtype)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        """Every member normalized by its own mean and variance."""
        own = x.unflatten(-1, (self.groups, -1))
        norm = functional.layer_norm if self.centered else functional.rms_norm
        y = norm(own, own.shape[-1:], eps=self.eps).flatten(-2)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, as they are printed."""
        return f"{self.normalized_shape}, groups={self.groups}, eps={self.eps}"
