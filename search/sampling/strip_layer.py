"""Drawn weights over wide maps: a convolution of stride 1 as one matrix product for each row of its kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from collegium.search.sampling.normals import NormalStream
from collegium.search.sampling.shared_layer import HiddenLayer, gate, paired
from collegium.search.sampling.unfold import ConvShape


class StripLayer(HiddenLayer):
    """A hidden layer whose weights are drawn, for one input, stride 1 and maps higher than their kernel.

    Patches along a row alone, *strips*, are read: a kernel of k rows takes k products with them, each shifted by a row,
    and its transpose k products with the padded δ. That copies and adds 1/k of what whole patches would.
    """

    def __init__(self, shape: ConvShape, samples: int, inputs: int, device: torch.device, dtype: torch.dtype):
        super().__init__(shape, samples, inputs, device, dtype)
        (rows, columns), (high, wide), batch = shape.out_size, shape.kernel, samples * shape.groups
        (height, width), (top, bottom, left, right) = shape.in_size, shape.pad
        read, out = wide * shape.group_in, shape.group_out

        def empty(*size: int) -> Tensor:
            return torch.zeros(size, device=device, dtype=dtype)

        self._padded = empty(samples, height + top + bottom, width + left + right, shape.in_channels)
        self._summed = empty(samples, height, width + left + right, shape.in_channels)
        self._strips = empty(samples, shape.groups, rows + high - 1, columns, wide, shape.group_in)
        self._back = empty(batch, height * columns, read)
        self._weights = empty(high, batch, read, out)
        self._framed = empty(batch, (rows + 2 * high - 2) * columns, out)
        strips, area = (rows + high - 1) * columns, rows * columns
        self._by_grams = strips**2 * read + area**2 * out < area * shape.fan_in * out
        if self._by_grams:
            self._strip_gram = empty(batch, strips, strips)
            self._patch_gram, self._delta_gram = empty(batch, area, area), empty(batch, area, area)

    def forward(self, features: Tensor, normals: NormalStream) -> Tensor:
        """The activations that follow from the map ``features``, under fresh weights."""
        self._inside(self._padded).copy_(features[:, 0])
        sample, row, column, channel = self._padded.stride()
        group = self.shape.group_in * channel
        self._strips.copy_(self._padded.as_strided(self._strips.shape, (sample, group, row, column, column, channel)))
        normals.fill(self._weights)
        for i, strips in enumerate(self._shifted()):
            self._z.baddbmm_(strips, self._weights[i], beta=min(i, 1), alpha=self.scale)
        return self._activations()

    def backward(self, gradient: Tensor, normals: NormalStream) -> tuple[Tensor, Tensor]:
        """The layer's share ``(samples,)``, and the gradient of its features from that of its activations."""
        (rows, columns), (high, wide) = self.shape.out_size, self.shape.kernel
        frame = (high - 1) * columns
        delta = self._framed[:, frame : frame + rows * columns]
        gate(self._grouped(gradient), self._z, self._active, self.shape.phi, delta)
        for i in range(high):
            # Row y of the features' map gets row y + top − i of δ; rows of padding are left out.
            start = frame + (self.shape.pad[0] - i) * columns
            under = self._framed[:, start : start + self._back.shape[1]]
            self._back.baddbmm_(under, self._weights[i].mT, beta=min(i, 1), alpha=self.scale)
        share = self._share(delta)
        shape = (self._summed.shape[0], self.shape.groups, -1, columns, wide, self.shape.group_in)
        across = self._back.view(shape).permute(0, 2, 3, 4, 1, 5)
        used = self._summed.zero_()[..., : self.shape.groups * self.shape.group_in]
        grouped = used.unflatten(-1, (self.shape.groups, self.shape.group_in))
        for j in range(wide):
            grouped[:, :, j : j + columns] += across[:, :, :, j]
        left = self.shape.pad[2]
        return share, self._summed[:, None, :, left : left + self.shape.in_size[1]]

    def _share(self, delta: Tensor) -> Tensor:
        if self._by_grams:
            strips, area, columns = self._flat(), delta.shape[1], self.shape.out_size[1]
            gram = torch.bmm(strips, strips.mT, out=self._strip_gram)
            patch_gram = gram[:, :area, :area]
            for i in range(columns, self.shape.kernel[0] * columns, columns):
                patch_gram = torch.add(patch_gram, gram[:, i : i + area, i : i + area], out=self._patch_gram)
            share = paired(patch_gram, torch.bmm(delta, delta.mT, out=self._delta_gram))
            return self._sum_groups(share, delta, delta)
        # The weights are done with: their memory takes the gradient.
        for i, strips in enumerate(self._shifted()):
            torch.bmm(strips.mT, delta, out=self._weights[i])
        return self._sum_groups(torch.linalg.vector_norm(self._weights, dim=(0, 2, 3)).square(), delta, delta)

    def _shifted(self) -> list[Tensor]:
        """The strips under each row of the kernel, ``(batch, positions, wide · group_in)``."""
        strips, (rows, columns) = self._flat(), self.shape.out_size
        return [strips[:, i * columns : (i + rows) * columns] for i in range(self.shape.kernel[0])]

    def _flat(self) -> Tensor:
        return self._strips.view(self._weights.shape[1], -1, self._weights.shape[2])

    def _inside(self, padded: Tensor) -> Tensor:
        (height, width), (top, _, left, _) = self.shape.in_size, self.shape.pad
        return padded[:, top : top + height, left : left + width]
