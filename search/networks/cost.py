"""The cost of one member at many width vectors at once.

Every weight layer costs its outputs times its fan-in, and each of the two holds at most one free width. So the exact
per-member count of ``Network.affine`` is a quadratic polynomial of the width vector, and a few exact counts give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collegium.search.networks.chain import Chain, Free
from collegium.search.networks.network import Measure, Network


@dataclass(frozen=True)
class CostPolynomial:
    """``fixed`` and the polynomial ``constant + linear · n + n · quadratic · n`` of one member's count."""

    fixed: float
    constant: float
    linear: np.ndarray
    quadratic: np.ndarray

    def per_member(self, widths: np.ndarray) -> np.ndarray:
        """Counts of one member at ``widths`` of shape (vectors, free widths)."""
        return self.constant + widths @ self.linear + np.einsum("vi,ij,vj->v", widths, self.quadratic, widths)


def cost_polynomial(network: Network, measure: Measure) -> CostPolynomial:
    """The polynomial through exact counts at small width vectors; adjacent layers alone share a product."""
    grains = network.width_grains
    size = len(grains)

    def count(*steps: int) -> int:
        vector = list(grains)
        for step in steps:
            vector[step] += grains[step]
        return network.affine(measure, vector)[1]

    base = count()
    first = [count(i) - base for i in range(size)]
    second = np.zeros((size, size))
    for i, j in _products(network.chain):
        twice = count(i, j) - base - first[i] - first[j]
        if i == j:
            second[i, i] = twice / 2 / grains[i] ** 2
        else:
            second[i, j] = second[j, i] = twice / 2 / grains[i] / grains[j]
    at = np.array(grains, float)
    linear = np.array([first[i] - second[i, i] * grains[i] ** 2 for i in range(size)]) / at - 2 * second @ at
    constant = base - linear @ at - at @ second @ at
    return CostPolynomial(float(network.affine(measure, grains)[0]), float(constant), linear, second)


def _products(chain: Chain) -> set[tuple[int, int]]:
    """Pairs of free widths (ordered) that meet in one layer, as its fan-in and its outputs."""
    pairs = set()
    for below, layer in zip(chain.layers, chain.layers[1:], strict=False):
        if isinstance(below.out, Free) and isinstance(layer.out, Free):
            i, j = sorted((below.out.index, layer.out.index))
            pairs.add((i, j))
    return pairs
