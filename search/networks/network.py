"""A baseline as a whole network: the chain whose kernel is studied, and exact counts of any m × n regrouping.

Every count of a grouped network is affine in the multiplicity: ``count(n, m) = fixed + m · per_member(n)``. Equating
it with the baseline's real count gives the primal multiplicity exactly (Littwin et al. 2020, Eq. 12, on the whole
network rather than on one module).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from collegium.search.networks.chain import Activation, Chain, Free, WeightLayer

Measure = Literal["parameters", "flops"]


@dataclass(frozen=True)
class Network(ABC):
    """A baseline lowered to what a search needs.

    ``baseline`` is the free width vector ñ of one member and ``multiplicity`` its number of members.
    """

    title: str
    chain: Chain
    baseline: tuple[int, ...]
    multiplicity: int

    @abstractmethod
    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """``(fixed, per_member)`` such that m members of the given widths cost ``fixed + m · per_member``.

        ``parameters`` counts every trainable number; ``flops`` counts multiply–accumulate operations for one input.
        """

    @property
    @abstractmethod
    def counted_layers(self) -> range:
        """Indices of the weight layers whose fan-in enters s(n)."""

    def count(self, measure: Measure, widths: Sequence[int], multiplicity: int) -> int:
        """Parameters or FLOPs of the whole network with ``multiplicity`` members of the given widths."""
        fixed, per_member = self.affine(measure, widths)
        return fixed + multiplicity * per_member

    def inverse_fan_in_sum(self, widths: Sequence[int]) -> float:
        """s(n) = Σ_l 1 / fan_in_l (Littwin et al. 2020, Eq. 9 and section 4.2), constant terms kept."""
        fan_ins = self.chain.fan_ins(widths)
        return sum(1.0 / fan_ins[index] for index in self.counted_layers)

    def scaled(self, width: int) -> tuple[int, ...]:
        """The width vector in which all free widths share the ratio ``width / ñ_1``; each at least 1."""
        ratio = width / self.baseline[0]
        return tuple(max(1, round(ratio * value)) for value in self.baseline)

    @property
    def grouping_matters(self) -> bool:
        """False for a single hidden layer: m members of width n *are* one layer of width m·n."""
        return len(self.chain.layers) > 2


@dataclass(frozen=True)
class MlpNetwork(Network):
    """m fully connected members side by side, their outputs summed."""

    bias: bool = False

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """Members share the output bias alone."""
        if measure == "flops":
            return 0, self.chain.flops(widths)
        if not self.bias:
            return 0, self.chain.parameters(widths)
        *hidden, outputs = [shape[0] for shape in self.chain.shapes(widths)[1:]]
        return outputs, self.chain.parameters(widths) + sum(hidden)

    @property
    def counted_layers(self) -> range:
        """All but the input layer: Σ_l 1 / n_l over the hidden widths."""
        return range(1, len(self.chain.layers))


@dataclass(frozen=True)
class BlockNetwork(Network):
    """m copies of a user's chain, their outputs summed; no biases or norms are counted."""

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """Members have no parameters in common."""
        return 0, self.chain.parameters(widths) if measure == "parameters" else self.chain.flops(widths)

    @property
    def counted_layers(self) -> range:
        """Every weight layer."""
        return range(len(self.chain.layers))


@dataclass(frozen=True)
class Stage:
    """One stage of a residual network; ``scale`` multiplies the module's free widths here."""

    blocks: int
    inputs: int
    outputs: int
    stride: int
    scale: int
    size: int


@dataclass(frozen=True)
class ResidualNetwork(Network):
    """A ResNet or ResNeXt: stem, stages, shortcuts, norms and head. The free widths double with every stage.

    ``chain`` is the residual module of the first stage. Its map is 8 × 8, which only the ``pooled`` entry sees.
    """

    block: Literal["bottleneck", "basic"] = "bottleneck"
    stages: tuple[Stage, ...] = ()
    stem_kernel: int = 3
    stem_size: int = 32
    pooled_stem: bool = False
    classes: int = 10
    stem_channels: int = field(default=64)

    @property
    def counted_layers(self) -> range:
        """Every weight layer of the module, the constant 1 / n_in included."""
        return range(len(self.chain.layers))

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """Stem, norms of the block outputs, projections and head are fixed; group widths double with every stage."""
        cost = _parameter_cost if measure == "parameters" else _flop_cost
        fixed = cost(3 * self.stem_kernel**2, self.stem_channels, self.stem_size) + self._head(measure)
        per_member = 0
        for stage in self.stages:
            scaled = [stage.scale * width for width in widths]
            for index in range(stage.blocks):
                inputs = stage.inputs if index == 0 else stage.outputs
                size_in = stage.size * (stage.stride if index == 0 else 1)
                block_fixed, member = self._block(cost, measure, scaled, inputs, stage.outputs, size_in, stage.size)
                fixed += block_fixed
                per_member += member
                if index == 0 and (inputs != stage.outputs or stage.stride != 1):
                    fixed += cost(inputs, stage.outputs, stage.size)
        return fixed, per_member

    def _head(self, measure: Measure) -> int:
        features = self.stages[-1].outputs
        return features * self.classes + (self.classes if measure == "parameters" else 0)

    def _block(self, cost, measure: Measure, widths, inputs: int, outputs: int, size_in: int, size: int):
        norm = 2 * outputs if measure == "parameters" else 0
        if self.block == "basic":
            (n,) = widths
            return norm, cost(9 * inputs, n, size) + 9 * n * outputs * _area(measure, size)
        first, second = widths if len(widths) == 2 else (widths[0], widths[0])
        member = cost(inputs, first, size_in) + cost(9 * first, second, size)
        return norm, member + second * outputs * _area(measure, size)


def _area(measure: Measure, size: int) -> int:
    return 1 if measure == "parameters" else size * size


def _parameter_cost(fan_in: int, out: int, size: int) -> int:
    """A convolution followed by a batch norm."""
    return fan_in * out + 2 * out


def _flop_cost(fan_in: int, out: int, size: int) -> int:
    return fan_in * out * size * size


def mlp_chain(inputs: int, hidden: int, outputs: int) -> Chain:
    """The chain of an MLP with ``hidden`` hidden layers, every one free."""
    layers = tuple(WeightLayer("dense", Free(index)) for index in range(hidden))
    names = tuple(f"n{index + 1}" for index in range(hidden))
    return Chain(inputs, 1, 1, (*layers, WeightLayer("dense", outputs, "linear")), names)


def residual_chain(block: Literal["bottleneck", "basic"], channels: int) -> Chain:
    """The residual branch: 1×1 → 3×3 → 1×1 with free widths (n1, n2), or 3×3 → 3×3 with one free width."""
    if block == "basic":
        layers = (_conv(Free(0), 3), _conv(channels, 3, "linear"))
        return Chain(channels, 8, 8, layers, ("n1",))
    layers = (_conv(Free(0), 1), _conv(Free(1), 3), _conv(channels, 1, "linear"))
    return Chain(channels, 8, 8, layers, ("n1", "n2"))


def _conv(out: int | Free, kernel: int, activation: Activation = "relu") -> WeightLayer:
    return WeightLayer("conv", out, activation, kernel=kernel, padding=(kernel - 1) // 2)
