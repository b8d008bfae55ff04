"""Moments of pairs of vectors that are carried through the same gated layers of Gaussian weights.

A row w of a weight matrix meets two vectors u, v through (w·u, w·v) alone. Its gate D is φ'(w·a) of a positively
homogeneous φ: 1 above zero and s below, 0 for a rectifier. Under w → −w the two change places and an even moment does
not change, so D² multiplies it by (1 + s²)/2 and D⁴ by (1 + s⁴)/2 (a rectifier halves it), and rows are independent.
Hence

    A = E[|u|² |v|²],   B = E[⟨u, v⟩²]

obey a linear recursion. Both vectors are either the activation a or a *tangent*, the derivative of the activation by a
parameter below; K is the sum over all parameters of the squared output tangents. Written relative to E|a|² the gains
and fan-ins cancel, and a layer of width n (κ = E D⁴ / (E D²)²: 2 for a rectifier, 1 for a linear layer) maps

    A' = κ/n (A + 2B) + (1 − 1/n) A,      B' = κ/n (A + 2B) + (1 − 1/n) B.

A layer's own tangents, those by the weights and the bias of unit i, have the one nonzero component i, of which the
squares sum to D_i² (g/f |a|² + 1). So a bias acts as one more input, of constant weight

    ζ = 1 / (g/f E|a|²),

and a pair of which one vector is a bias's needs a *first* moment: E|a|² = 1, or E|u|² of the older tangents u, or the
probability that the bias's gate is not closed for certain. It is where a = 0, a *dead* network: a rectifier after it
is closed whatever its weights are. Weights have no part in that, since their tangents carry |a|², which is zero there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collegium.search.networks.activation import Activation


@dataclass(frozen=True)
class Pair:
    """``norms`` A = E[|u|²|v|²] and ``inner`` B = E[⟨u, v⟩²], one for each width vector."""

    norms: np.ndarray
    inner: np.ndarray

    @classmethod
    def born(cls, norms: np.ndarray, width: np.ndarray, activation: Activation) -> Pair:
        """A layer's own tangents with another vector, or with themselves.

        ``norms`` is the mean product of their squares below: that of a single unit's tangents, as if it were open, and
        of the other vector before this layer.
        """
        kappa = activation.spread
        return cls(norms * (kappa / width + 1 - 1 / width), norms * kappa / width)

    def through(self, width: np.ndarray, activation: Activation) -> Pair:
        """Both vectors one layer higher."""
        diagonal = activation.spread / width * (self.norms + 2 * self.inner)
        return Pair(diagonal + (1 - 1 / width) * self.norms, diagonal + (1 - 1 / width) * self.inner)

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.norms + other.norms, self.inner + other.inner)


@dataclass(frozen=True)
class Part:
    """The moments after a layer over a part of all networks, of the given ``probability``, relative to E|a|² of all.

    ``size`` is E|a|² and ``tangent_size`` E|u|², the tangents of all layers so far summed; so are they in ``mixed``,
    pairs of an activation and a tangent, and in ``tangents``. Each holds one number for each width vector.
    """

    probability: np.ndarray
    size: np.ndarray
    activations: Pair
    mixed: Pair
    tangents: Pair
    tangent_size: np.ndarray

    @classmethod
    def dead(cls, probability: np.ndarray) -> Part:
        """Networks whose activations are zero, and their tangents too."""
        zero = np.zeros_like(probability)
        return cls(probability, zero, Pair(zero, zero), Pair(zero, zero), Pair(zero, zero), zero)

    def through(self, width: np.ndarray, activation: Activation, bias: float) -> Part:
        """The part one layer higher: old pairs propagate, and the layer's own tangents join them.

        A rectifier's gates may all be closed at once: what passes them is zero then, and so is each product of it
        here. ``bias`` is ζ, or 0 for a layer without biases.
        """

        def born(norms: np.ndarray) -> Pair:
            return Pair.born(norms, width, activation)

        own = born(self.activations.norms + 2 * bias * self.size + bias**2 * self.probability)
        own_mixed = born(self.activations.norms + bias * self.size)
        crossed = born(self.mixed.norms + bias * self.tangent_size)
        return Part(
            self.probability,
            self.size,
            self.activations.through(width, activation),
            self.mixed.through(width, activation) + own_mixed,
            self.tangents.through(width, activation) + own + crossed + crossed,
            self.tangent_size + self.size + bias * self.probability,
        )

    def of_probability(self, probability: np.ndarray) -> Part:
        """The same moments, of a part with this probability: what is left out adds nothing to them."""
        return Part(probability, self.size, self.activations, self.mixed, self.tangents, self.tangent_size)


@dataclass(frozen=True)
class State:
    """All networks after a layer: those ``alive``, and those ``dead``, whose activations are zero."""

    alive: Part
    dead: Part

    @classmethod
    def of_input(cls, vectors: int) -> State:
        """Before the first layer: one vector of fixed norm, and no tangents."""
        one, zero = np.ones(vectors), np.zeros(vectors)
        return cls(Part(one, one, Pair(one, one), Pair(zero, zero), Pair(zero, zero), zero), Part.dead(zero))

    @classmethod
    def of_first_layer(cls, activations: Pair, mixed: Pair, tangents: Pair, layers: int = 1) -> State:
        """After first ``layers`` whose pairs were found otherwise, of a network without biases."""
        one = np.ones_like(activations.norms)
        return cls(Part(one, one, activations, mixed, tangents, layers * one), Part.dead(np.zeros_like(one)))

    def through(self, width: np.ndarray, activation: Activation, bias: float) -> State:
        """The state one layer higher. A rectifier closes every unit at once with probability 2⁻ⁿ.

        After that, with biases, a leaky rectifier has no place: at z = 0 its gate is no matter of chance.
        """
        alive = self.alive.through(width, activation, bias)
        if activation.slope != 0:
            return State(alive, self.dead.through(width, activation, bias))
        probability = self.alive.probability * -np.expm1(-width * np.log(2))
        return State(alive.of_probability(probability), Part.dead(1 - probability))

    @property
    def mean(self) -> np.ndarray:
        """E|u|² of all tangents; of a network's output, E[K]."""
        return self.alive.tangent_size + self.dead.tangent_size

    @property
    def second(self) -> np.ndarray:
        """E[|u|²|v|²] of all tangents; of a network's output, E[K²]."""
        return self.alive.tangents.norms + self.dead.tangents.norms
