"""Patches of channels-last feature maps: read for a convolution, added back for its transpose.

Maps are ``(samples, inputs, height, width, channels)``: one weight sample is applied to all its ``inputs`` (one, or the
two of an off-diagonal kernel entry). Every sample has weights of its own, so a convolution is a batched matrix product
over explicit patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from collegium.search.conv_shape import ConvShape


class Patches:
    """Reads the patches of a map, and adds patches back onto one, for a fixed number of samples.

    Patches are ``(samples · groups, inputs · positions, fan_in)``. The buffers are allocated once and overwritten by
    every call; where a patch is the map itself, no copy is made.
    """

    def __init__(self, shape: ConvShape, samples: int, inputs: int, device: torch.device, dtype: torch.dtype):
        self._shape = shape
        (height, width), (top, bottom, left, right) = shape.in_size, shape.pad
        self._map = (samples, inputs, height, width, shape.in_channels)
        self._rows = (samples * shape.groups, inputs * shape.positions, shape.fan_in)
        self._taps = (samples, shape.groups, inputs, *shape.out_size, *shape.kernel, shape.group_in)
        pointwise = shape.kernel == (1, 1) and shape.stride == 1
        self._is_map = (
            (pointwise or shape.kernel == shape.in_size)
            and not any(shape.pad)
            and shape.groups == 1
            and shape.in_channels == shape.group_in
        )
        if not self._is_map:
            padded = (samples, inputs, height + top + bottom, width + left + right, shape.in_channels)
            self._padded = torch.zeros(padded, device=device, dtype=dtype)
            self._summed = torch.empty(padded, device=device, dtype=dtype)
            self._patches = torch.empty(self._taps, device=device, dtype=dtype)
            # Sums over the kernel's rows alone: adding back is k + k strided sums this way, not k².
            across = (samples, shape.groups, inputs, padded[2], shape.out_size[1], shape.kernel[1], shape.group_in)
            self._across = torch.empty(across, device=device, dtype=dtype)

    def read(self, features: Tensor) -> Tensor:
        """Patches under the kernel at every output position of the map ``features``."""
        if self._is_map:
            return features.reshape(self._rows)
        self._inside(self._padded).copy_(features)
        self._patches.copy_(self._padded.as_strided(self._taps, self._strides()))
        return self._patches.view(self._rows)

    def add(self, patches: Tensor) -> Tensor:
        """The transpose of :meth:`read`: patches summed where they overlap, as a map."""
        if self._is_map:
            return patches.reshape(self._map)
        shape, taps = self._shape, patches.reshape(self._taps)
        rows, columns = (shape.stride * size for size in shape.out_size)
        across = self._across.zero_()
        for i in range(shape.kernel[0]):
            across[:, :, :, i : i + rows : shape.stride] += taps[:, :, :, :, :, i]
        used = self._summed.zero_()[..., : shape.groups * shape.group_in]
        grouped = used.unflatten(-1, (shape.groups, shape.group_in)).permute(0, 4, 1, 2, 3, 5)
        for j in range(shape.kernel[1]):
            grouped[:, :, :, :, j : j + columns : shape.stride] += across[:, :, :, :, :, j]
        return self._inside(self._summed)

    def _inside(self, padded: Tensor) -> Tensor:
        (height, width), (top, _, left, _) = self._shape.in_size, self._shape.pad
        return padded[:, :, top : top + height, left : left + width]

    def _strides(self) -> tuple[int, ...]:
        """Strides of the padded map seen as (sample, group, input, row, column, tap row, tap column, channel)."""
        sample, per_input, row, column, channel = self._padded.stride()
        step = self._shape.stride
        return sample, self._shape.group_in, per_input, step * row, step * column, row, column, channel
