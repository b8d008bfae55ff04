"""Samples of the kernel entry of any chain of convolutions and dense layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from collegium.search.kernel.inputs import patch_gram
from collegium.search.kernel.receptive_field import layer_windows
from collegium.search.networks.chain import Chain
from collegium.search.sampling.between.pools import Between, between
from collegium.search.sampling.normals import NormalStream, covariance_root, joint_gram
from collegium.search.sampling.shared_layer import (
    DrawnLayer,
    GaussianLayer,
    GroupedInputLayer,
    InputLayer,
    ReadoutLayer,
    law_is_cheaper,
)
from collegium.search.sampling.strip_layer import StripLayer
from collegium.search.sampling.unfold import ConvShape, conv_shapes

BATCH_NUMBERS = {"cpu": 6 << 20, "cuda": 1 << 28}
"""Numbers held by one batch of samples: enough for the calls to cost little, few enough for a core's share of cache."""

MAX_BATCH = 4096


class ConvSampler:
    """Independent samples of K(x, x') = ∇F(x)·∇F(x') at random initialization, one for each draw of all weights.

    ``chain`` is concrete and its last layer linear. ``gram`` is S = (2/channels) XᵀX over the positions of the
    entry's input window, row by row (``collegium.search.kernel.receptive_field.input_window``); ``pair`` is the
    cosine between x and a second input x' of the same Gram, for an off-diagonal entry. Groups of the first layer split
    the input's channels evenly, and see ``gram`` each, or their own of several, ``(groups, P, P)``. ``hidden`` forces
    one way of sampling hidden layers, else each takes the cheaper.

    Where Littwin et al. 2020 (Eq. 3) draw weights, this draws the law of what they do wherever that is cheaper, and
    never a gradient where two Gram matrices give its norm; ``collegium.search.sampling.shared_layer`` derives both.
    The law of the samples is that of the plain definition in ``collegium.search.sampling.reference``.

    Raises ``ValueError`` for free widths, a last layer with an activation, or a Gram matrix of the wrong shape or not
    positive semidefinite.
    """

    def __init__(
        self,
        chain: Chain,
        entry: str,
        gram: np.ndarray,
        pair: float | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        hidden: Literal["cheaper", "weights", "law"] = "cheaper",
    ):
        if chain.names:
            raise ValueError(f"the chain still has free widths {chain.names}")
        if chain.layers[-1].activation != "linear":
            raise ValueError("the last layer's activation must be linear")
        if pair is not None and not -1 <= pair <= 1:
            raise ValueError(f"pair is a cosine, got {pair}")
        self._shapes = conv_shapes(chain, entry)
        self._inputs = 1 if pair is None else 2
        self._device, self._dtype, self._hidden = torch.device(device), dtype, hidden
        if np.ndim(gram) == 3 and len(gram) != chain.first_groups:
            raise ValueError(f"{len(gram)} Gram matrices for a first layer of {chain.first_groups} groups")
        root = _roots(patch_gram(chain, entry, joint_gram(gram, pair)) * (self._shapes[0].gain / 2))
        self._root = torch.tensor(root, device=self._device, dtype=dtype)
        frames = layer_windows(chain, entry)
        self._between: list[list[Between]] = [
            between(layer, frame, self._device, dtype) for layer, frame in zip(chain.layers, frames, strict=True)
        ]
        self._layers: tuple[int, InputLayer, list[DrawnLayer | GaussianLayer | StripLayer], ReadoutLayer] | None = None

    def draw(self, count: int, generator: Generator) -> Tensor:
        """``count`` independent samples of the entry, ``(count,)``; the same for equal generators and counts."""
        if len(self._shapes) == 1:
            return self._constant(count)
        batches = -(-count // self._batch())
        size = -(-count // max(batches, 1))
        normals = NormalStream(generator)
        found = [self._draw_batch(size, normals) for _ in range(batches)]
        return torch.cat(found)[:count] if found else torch.empty(0, device=self._device, dtype=self._dtype)

    def _draw_batch(self, samples: int, normals: NormalStream) -> Tensor:
        first, hidden, last = self._at(samples)
        features = _forward(self._between[0], first.forward(normals))
        for layer, after in zip(hidden, self._between[1:], strict=False):
            features = _forward(after, layer.forward(features, normals))
        entry, gradient = last.share(features, normals)
        for layer, after in zip(reversed(hidden), self._between[-2::-1], strict=False):
            share, gradient = layer.backward(_backward(after, gradient), normals)
            entry += share
        return entry + first.share(_backward(self._between[0], gradient))

    def _at(self, samples: int) -> tuple[InputLayer, list[DrawnLayer | GaussianLayer | StripLayer], ReadoutLayer]:
        """The layers with buffers for ``samples`` samples, kept until the number changes."""
        if self._layers is None or self._layers[0] != samples:
            head, *middle, tail = self._shapes
            place = (samples, self._inputs, self._device, self._dtype)
            kind = InputLayer if self._root.ndim == 2 else GroupedInputLayer
            first = kind(head, samples, self._inputs, self._root)
            self._layers = samples, first, [self._kind(s)(s, *place) for s in middle], ReadoutLayer(tail, *place)
        return self._layers[1:]

    def _kind(self, shape: ConvShape) -> type[DrawnLayer] | type[GaussianLayer] | type[StripLayer]:
        if law_is_cheaper(shape, self._inputs) if self._hidden == "cheaper" else self._hidden == "law":
            return GaussianLayer
        high = len(shape.kernel) == 2 and shape.kernel[0] > 1 and shape.out_size[0] >= 2 * (shape.kernel[0] - 1)
        plain = shape.stride == shape.dilation == (1, 1)
        return StripLayer if high and plain and self._inputs == 1 else DrawnLayer

    def _batch(self) -> int:
        numbers = sum(_numbers(*layers, self._inputs) for layers in pairwise(self._shapes))
        return max(1, min(MAX_BATCH, BATCH_NUMBERS.get(self._device.type, BATCH_NUMBERS["cuda"]) // numbers))

    def _constant(self, count: int) -> Tensor:
        """A single linear layer's kernel entry does not depend on its weights."""
        positions = self._shapes[0].positions
        root = self._root if self._root.ndim == 2 else self._root[0]  # channel 0 is of the first group
        share = root[:positions].mean(0) @ root[-positions:].mean(0) + float(self._shapes[0].bias)
        return share.expand(count).clone()


def _forward(between: list[Between], features: Tensor) -> Tensor:
    for each in between:
        features = each.forward(features)
    return features


def _backward(between: list[Between], gradient: Tensor) -> Tensor:
    for each in reversed(between):
        gradient = each.backward(gradient)
    return gradient


def _roots(covariances: np.ndarray) -> np.ndarray:
    """R with R Rᵀ = C, ``(rows, rank)``; of several C ``(groups, rows, rank)``, filled up with zeros to one rank."""
    if covariances.ndim == 2:
        return covariance_root(covariances)
    roots = [covariance_root(covariance) for covariance in covariances]
    rank = max(root.shape[1] for root in roots)
    return np.stack([np.pad(root, ((0, 0), (0, rank - root.shape[1]))) for root in roots])


def _numbers(below: ConvShape, shape: ConvShape, inputs: int) -> int:
    """Numbers held for one sample, about, by ``shape`` and the map that comes to it from the layer ``below``."""
    read = inputs * shape.positions * shape.groups * shape.fan_in
    return 3 * inputs * below.positions * below.out_channels + 3 * read + shape.out_channels * shape.fan_in
