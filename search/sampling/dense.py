"""Draws of a kernel entry from its law, for dense chains of rectifiers: O(n) random numbers, no weights.

The layers above the first are dense and follow ``dense_law``. Where the first layer is needed at one position only,
that covers it too. Where it shares its weights over P positions, its n channels are drawn at these positions,
z = G·root with rootᵀ·root = S the covariance, and its gradient δ likewise; its part of K is Σ_channels δᵀ S δ.

Biases are zero, so they change no draw; a layer's add |δ|² to K, also where the activations are zero.

(Integrating the last Gaussian layer out would leave a third of the samples to draw for the same error of E[K] and
E[K²], but the draws would no longer follow the law of K; they are cheap enough as they are.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from collegium.search.kernel.closed_form import is_gated
from collegium.search.kernel.inputs import patch_gram
from collegium.search.networks.chain import Chain
from collegium.search.sampling.normals import covariance_root

#: Numbers in one working buffer: four of them fit into a core's second-level cache, or fill a GPU.
TILE = {"cpu": 1 << 16, "cuda": 1 << 24}
#: Eigenvalues of the Gram matrix below this share of the largest are rounding.
RANK_CUTOFF = 1e-7


class DenseSampler:
    """Independent draws of K(x, x) for the unit entry of a concrete chain (no free widths).

    ``gram`` is the Gram matrix over the input positions that the unit sees, shape ``(Q, Q)``. ``dtype`` is that of the
    first layer's numbers; sums over a whole sample are returned in float64. Raises ``ValueError`` for a chain without a
    closed form, and for a Gram matrix for each group of its first layer.
    """

    def __init__(
        self,
        chain: Chain,
        gram: np.ndarray,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not is_gated(chain, "unit") or np.ndim(gram) != 2:
            raise ValueError("the law of this kernel entry has no closed form: draw its weights (``ConvSampler``)")
        covariance = patch_gram(chain, "unit", np.asarray(gram))
        covariance = covariance * (chain.gains[0] / 2)
        fans = chain.fan_ins(())
        self._layers = [
            LayerLaw(
                layer.out if index < len(fans) - 1 else 1,  # type: ignore[arg-type]
                gain / fan,
                layer.activation == "relu",
            )
            for index, (layer, gain, fan) in enumerate(zip(chain.layers, chain.gains, fans, strict=True))
        ]
        self._size, self._bias = float(np.trace(covariance)), all(chain.biases)
        root = None if len(covariance) == 1 else covariance_root(covariance, RANK_CUTOFF)
        self._root = None if root is None else torch.tensor(root.T, dtype=dtype, device=device)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` draws of K, shape ``(count,)``, float64."""
        if self._root is None:
            first, *others = self._layers
            own = LayerLaw(first.width, self._size, first.rectified)
            return draw_dense([own, *others], count, generator, bias=self._bias).kernel
        upper = draw_dense(self._layers[1:], count, generator)
        return torch.cat(list(self._tiles(self._root, upper, generator)))

    def _tiles(self, root: Tensor, upper: DenseDraw, generator: torch.Generator) -> Iterator[Tensor]:
        """K for consecutive samples, as many at once as the buffers hold."""
        rank, positions = root.shape
        width, rectified = self._layers[0].width, self._layers[0].rectified
        count = len(upper.output)
        tile = min(count, max(1, TILE.get(root.device.type, TILE["cpu"]) // (positions * width)))
        # samples lie innermost: sums over a sample's numbers and products with its scalars both run along them
        noise = torch.empty(rank, width * tile, device=root.device, dtype=root.dtype)
        activation, gradient, product = (
            torch.empty(positions, width * tile, device=root.device, dtype=root.dtype) for _ in range(3)
        )
        for start in range(0, count, tile):
            part = slice(start, min(start + tile, count))
            torch.mm(root.T, noise.normal_(generator=generator), out=activation)
            gradient.normal_(generator=generator)
            if rectified:
                activation.clamp_min_(0)
                gradient.mul_(torch.sign(activation, out=product))  # the gates, as numbers: no cast of a mask
            samples = part.stop - part.start
            a, y, work, image = (
                buffer.view(-1, tile)[:, :samples] for buffer in (activation, gradient, product, noise)
            )
            size = torch.mul(a, a, out=work).sum(0)
            overlap = torch.mul(a, y, out=work).sum(0).double()
            squared = size.double()
            output = upper.output[part] * squared.sqrt()
            backward = upper.backward[part]
            along = (output - backward * overlap) / squared.clamp_min(torch.finfo(root.dtype).tiny)
            y.mul_(backward.to(root.dtype)).add_(a.mul_(along.to(root.dtype)))
            torch.mm(root, gradient, out=noise)
            own = torch.mul(image, image, out=image).sum(0).double()
            yield torch.where(squared > 0, upper.kernel[part] * squared + own, 0.0)


@dataclass(frozen=True)
class LayerLaw:
    """``width`` units over inputs of which each is weighted with variance ``scale`` = gain / fan-in."""

    width: int
    scale: float
    rectified: bool


@dataclass(frozen=True)
class DenseDraw:
    """Draws for a dense chain on an input a of unit norm, each of shape ``(count,)``, float64.

    ``kernel`` is the part of K from the chain's own weights, which scales with |a|², and its biases. ``output`` is F
    and scales with |a|.
    ``backward`` is b: the derivative of F by a is F a / |a|² + b ξ with ξ a standard Gaussian orthogonal to a.
    """

    kernel: Tensor
    output: Tensor
    backward: Tensor


def draw_dense(layers: Sequence[LayerLaw], count: int, generator: torch.Generator, *, bias: bool = False) -> DenseDraw:
    """``count`` independent draws for ``layers``, the last of which is linear with the one unit F.

    With ``bias`` every unit has one, zero and of unit rate, which adds its squared derivative to the kernel.
    """
    *hidden, last = layers
    sizes, opens, scattered = [], [], []
    size = torch.ones(count, dtype=torch.float64, device=generator.device)
    for layer in hidden:
        open_units = _open_units(layer, count, generator)
        squares = chi_squared(torch.stack([open_units, open_units - 1]), generator)
        size = size * layer.scale * squares[0]
        sizes.append(size)
        # a rectifier of zeros is closed, whatever its weights; of its gradient nothing is known, so nothing is along F
        opens.append(size > 0 if layer.rectified else torch.ones_like(size, dtype=torch.bool))
        scattered.append(torch.where(size > 0, squares[1], squares[0]))
    output = (last.scale * size).sqrt() * torch.randn(
        count, dtype=torch.float64, device=generator.device, generator=generator
    )
    gradient = torch.ones_like(size)
    kernel = last.scale * size + bias
    scale = last.scale
    square = output.square()
    for index in reversed(range(len(hidden))):
        along = square / sizes[index].clamp_min(torch.finfo(torch.float64).tiny)
        gradient = (along + scale * gradient * scattered[index]) * opens[index]
        scale = hidden[index].scale
        below = sizes[index - 1] if index else torch.ones_like(size)
        kernel = kernel + (scale * below + bias) * gradient
    return DenseDraw(kernel, output, (scale * gradient).sqrt())


def _open_units(layer: LayerLaw, count: int, generator: torch.Generator) -> Tensor:
    """How many units let their input through, shape ``(count,)``."""
    units = torch.full((count,), float(layer.width), dtype=torch.float64, device=generator.device)
    return torch.binomial(units, torch.full_like(units, 0.5), generator=generator) if layer.rectified else units


def chi_squared(degrees: Tensor, generator: torch.Generator) -> Tensor:
    """Chi-squared draws with ``degrees`` of freedom each; zero where there are none."""
    # torch.distributions takes no generator, hence the function below it
    draws = torch._standard_gamma(  # pyright: ignore[reportPrivateImportUsage]
        degrees.clamp_min(1) / 2, generator=generator
    )
    return draws.mul_(2).mul_(degrees > 0)
