"""An m × n ensemble as one chain: grouped layers between a shared input and a summed output.

With the NTK parameterization the last layer's gain, 1/√(m·n), is the member's 1/√n times the ensemble's 1/√m, so the
grouped chain *is* F^e = m^{-1/2} Σ_j F(θ_j) (Littwin et al. 2020, Eq. 4), and its kernel can be sampled as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from collegium.search.chain import Chain, WeightLayer


def ensemble_chain(chain: Chain, widths: Sequence[int], multiplicity: int) -> Chain | None:
    """The chain of m members of the given widths; it has no free widths.

    Dense layers become convolutions as large as their map, because only those have groups. None where that is not
    possible: a dense layer over a map that is not square, a grouped first or last layer, or no layer between them.
    """
    concrete = chain.at(widths)
    shapes = concrete.shapes(())
    layers = concrete.layers
    if multiplicity == 1:
        return concrete
    if len(layers) < 2 or layers[0].groups > 1 or layers[-1].groups > 1:
        return None
    grouped = []
    for index, (layer, shape) in enumerate(zip(layers, shapes, strict=False)):
        first, last = index == 0, index == len(layers) - 1
        made = _as_convolution(layer, shape)
        if made is None:
            return None
        out = made.out if last else _fixed(made.out) * multiplicity
        groups = 1 if first or last else made.groups * multiplicity
        grouped.append(replace(made, out=out, groups=groups))
    return replace(concrete, layers=tuple(grouped))


def _as_convolution(layer: WeightLayer, shape: tuple[int, int, int]) -> WeightLayer | None:
    if layer.kind == "conv":
        return layer
    _, height, width = shape
    if height != width:
        return None
    return replace(layer, kind="conv", kernel=height, stride=1, padding=0, groups=1)


def _fixed(out: object) -> int:
    assert isinstance(out, int)
    return out
