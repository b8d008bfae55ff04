"""Exact first and second moments of the diagonal NTK entry at initialization, at any finite widths.

A row w of a Gaussian weight matrix meets two vectors u, v through (w·u, w·v) alone. Its gate 1[w·a > 0] is symmetric
under w → −w, so every even moment is halved by the gate, and rows are independent. Hence the pair

    A = E[|u|² |v|²],   B = E[⟨u, v⟩²]

of two vectors propagated through the same gated layers obeys a linear recursion. Both vectors are either the activation
a or a *tangent*, the derivative of the activation by a weight below; K is the sum over all weights of the squared
output tangents, so E[K²] is the sum of the pairs of all tangents. Written relative to E|a|⁴ the gains and fan-ins
cancel, and a layer of width n (κ = 2 for a rectifier, 1 for a linear layer) maps

    A' = κ/n (A + 2B) + (1 − 1/n) A,      B' = κ/n (A + 2B) + (1 − 1/n) B.

Only the first layer may share weights over positions: its channels are independent, and what one of them contributes
is a sum over pairs of positions of the expectations in ``relu``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import ArrayLike

from collegium.search.kernel import relu
from collegium.search.kernel.inputs import Gram, check_gram, is_diagonal, patch_gram
from collegium.search.kernel.receptive_field import input_window, windows
from collegium.search.networks.chain import GAINS, Activation, Chain, Free
from collegium.search.spec import PairSpec


def has_closed_form(chain: Chain, entry: str, pair: PairSpec | None = None) -> bool:
    """Whether the moments of this entry are known exactly.

    They are for a diagonal entry of a chain without groups in which no layer above the first is needed at more than
    one position: MLPs, and the output unit of bottleneck (1×1 → k×k → 1×1) and basic (k×k → k×k) blocks.
    """
    return (
        is_diagonal(pair)
        and all(layer.groups == 1 for layer in chain.layers)
        and all(window.positions == 1 for window in windows(chain, entry)[2:])
        and (len(chain.layers) > 1 or entry == "unit")
    )


def log_moment_ratio(chain: Chain, widths: Sequence[int], gram: ArrayLike | Gram | None = None) -> float:
    """ln r = ln E[K²] − 2 ln E[K] of the unit entry, exact.

    ``gram`` is the Gram matrix of the input positions that the unit sees, shape ``(P, P)``, at any scale; it may be
    left out where the first layer is needed at one position only. Raises ``ValueError`` where there is no closed form.
    """
    return float(log_moment_ratios(chain, [widths], gram)[0])


def log_moment_ratios(chain: Chain, widths: ArrayLike, gram: ArrayLike | Gram | None = None) -> np.ndarray:
    """``log_moment_ratio`` at many width vectors at once: ``widths`` has shape ``(vectors, free widths)``."""
    table = np.atleast_2d(np.asarray(widths, dtype=float))
    if table.shape[1] != len(chain.names):
        raise ValueError(f"expected {len(chain.names)} widths {chain.names}, got {table.shape[1]}")
    if not has_closed_form(chain, "unit"):
        raise ValueError("no closed form: a layer above the first shares its weights, or has groups")
    hidden = [
        (table[:, layer.out.index] if isinstance(layer.out, Free) else np.full(len(table), float(layer.out)), layer)
        for layer in chain.layers[:-1]
    ]
    if not hidden:
        return np.zeros(len(table))
    (first_width, first), *others = hidden
    state = _first_layer(_first_gram(chain, gram), first.activation, first_width)
    for width, layer in others:
        state = state.through(width, layer.activation)
    second = state.through(np.ones(len(table)), "linear").tangents.norms
    mean = len(chain.layers)
    return np.log1p((second - mean**2) / mean**2)


def mean(chain: Chain, widths: Sequence[int], gram: ArrayLike | Gram | None = None) -> float:
    """E[K] of the unit entry: every weight layer contributes the same, E|a^L|² / fan_in of the last layer.

    ``gram`` is scaled as (2 / channels) XᵀX, hence 2 on its diagonal for inputs of unit mean square, and that is what
    is taken where it is left out. Raises ``ValueError`` where there is no closed form.
    """
    if not has_closed_form(chain, "unit"):
        raise ValueError("no closed form: a layer above the first shares its weights, or has groups")
    fan_ins = chain.fan_ins(widths)
    size = float(np.trace(_first_gram(chain, gram))) / 2
    for index, layer in enumerate(chain.at(widths).layers[:-1]):
        size *= layer.out if index == 0 else layer.out / fan_ins[index]  # type: ignore[operator]
    return len(chain.layers) * (size / fan_ins[-1] if len(chain.layers) > 1 else size)


@dataclass(frozen=True)
class _Pair:
    """``norms`` A = E[|u|²|v|²] and ``inner`` B = E[⟨u, v⟩²], one for each width vector."""

    norms: np.ndarray
    inner: np.ndarray

    def through(self, width: np.ndarray, activation: Activation) -> _Pair:
        """Both vectors one layer higher."""
        kappa = GAINS[activation]
        diagonal = kappa / width * (self.norms + 2 * self.inner)
        return _Pair(diagonal + (1 - 1 / width) * self.norms, diagonal + (1 - 1 / width) * self.inner)

    def born(self, width: np.ndarray, activation: Activation) -> _Pair:
        """One of the vectors replaced by the tangents of this layer's own weights; the other one layer higher."""
        kappa = GAINS[activation]
        return _Pair(self.norms * (kappa / width + 1 - 1 / width), self.norms * kappa / width)

    def __add__(self, other: _Pair) -> _Pair:
        return _Pair(self.norms + other.norms, self.inner + other.inner)


@dataclass(frozen=True)
class _State:
    """The three kinds of pairs after a layer, relative to (E|a|²)²; tangents of all layers so far are summed."""

    activations: _Pair
    mixed: _Pair
    tangents: _Pair

    def through(self, width: np.ndarray, activation: Activation) -> _State:
        """The state one layer higher: old pairs propagate, and the layer's own tangents join them."""
        own = self.activations.born(width, activation)
        crossed = self.mixed.born(width, activation)
        return _State(
            self.activations.through(width, activation),
            self.mixed.through(width, activation) + own,
            self.tangents.through(width, activation) + own + crossed + crossed,
        )


def _first_gram(chain: Chain, gram: ArrayLike | Gram | None) -> np.ndarray:
    """Covariance of the first layer's pre-activations over its positions, shape ``(P, P)``."""
    if gram is not None:
        given = check_gram(gram, input_window(chain, "unit").positions)
        return patch_gram(chain, "unit", given.matrix)
    needed = windows(chain, "unit")[1].positions
    if needed != 1:
        raise ValueError(f"the first layer is needed at {needed} positions: a Gram matrix is needed")
    return np.full((1, 1), 2.0)


def _first_layer(gram: np.ndarray, activation: Activation, width: np.ndarray) -> _State:
    """The state after a layer whose ``width`` channels are independent Gaussians with covariance ``gram``."""
    variance = np.diag(gram)
    if not variance.sum() > 0:
        raise ValueError("the Gram matrix is zero: the unit sees no input")
    product = np.outer(variance, variance)
    match activation:
        case "linear":
            size = variance.sum()
            fourth = (product + 2 * gram**2).sum()
            tangent_activation = tangent_tangent = size**2
            inner_activation = inner_tangent = (gram**2).sum()
        case "relu":
            deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
            rho = gram / np.outer(deviation, deviation)
            # the angle of ρ = 1 must be zero, not the square root of a rounding error
            rho = np.where(1 - np.abs(rho) < 1e-14, np.sign(rho), rho)
            size = variance.sum() / 2
            fourth = (product * relu.square_square(rho)).sum()
            tangent_activation = (product * relu.gate_square(rho)).sum()
            tangent_tangent = (product * relu.gate_gate(rho)).sum()
            inner_activation = (gram * np.sqrt(product) * relu.relu_relu(rho)).sum()
            inner_tangent = (gram**2 * relu.gate_gate(rho)).sum()
        case _:
            assert_never(activation)

    def pair(norms: float, inner: float) -> _Pair:
        return _Pair(norms / size**2 / width + 1 - 1 / width, inner / size**2 / width)

    return _State(
        # u = v = a: |u|²|v|² and ⟨u, v⟩² are the same
        activations=_Pair(*2 * [fourth / size**2 / width + 1 - 1 / width]),
        mixed=pair(tangent_activation, inner_activation),
        tangents=pair(tangent_tangent, inner_tangent),
    )
