"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from collegium.counted import counted
from collegium.search.errors import SampleMismatch
from collegium.search.fields import Width, Widths
from collegium.search.networks.activation import Activation, PostedActivation, lowered
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.family import Family, FamilyBaseline
from collegium.search.networks.footprint import Footprint, chain_footprints
from collegium.search.networks.network import Measure, Network, StageGrouping

RELU = Activation("relu")


class MlpBaseline(FamilyBaseline):
    """A fully connected network ``inputs → hidden… → outputs`` with one ``activation``, ReLU unless another is given.

    ``activation`` is a name, or an object with the name and a parameter: ``{"name": "leaky_relu", "negative_slope":
    0.1}``. The kernel of one that is not positively homogeneous (all but ReLU, leaky ReLU and the identity) is sampled,
    and depends on the inputs' mean square, as that of biases does.

    ``bias`` gives every unit a bias, zero at initialization, which counts as a parameter and enters the kernel. The
    kernel's variance then depends on the mean square of the inputs, 1 unless ``inputs.gram`` gives another (as
    ``[[2 · mean square]]``): the larger they are, the less the biases weigh.
    """

    family: Literal["mlp"]
    inputs: Width
    hidden: Widths
    outputs: Width = 1
    bias: bool = False
    activation: PostedActivation = "relu"


@dataclass(frozen=True)
class MlpNetwork(Network):
    """m fully connected members side by side, their outputs summed."""

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """Members share the output bias alone."""
        if measure == "flops":
            return 0, self.chain.flops(widths)
        shared = self.outputs * self.chain.biases[-1]
        return shared, self.chain.parameters(widths) - shared

    @property
    def counted_layers(self) -> range:
        """All but the input layer: Σ_l 1 / n_l over the hidden widths."""
        return range(1, len(self.chain.layers))

    def title_at(self, widths: Sequence[int], multiplicity: int) -> str:
        """Such as ``20 × MLP 64→[17, 17]→10``."""
        inputs, *hidden, outputs = self._sizes(widths)
        return f"{multiplicity} × {_title(inputs, hidden, outputs, self.activation)}"

    @property
    def activation(self) -> Activation:
        """That of every hidden layer."""
        return self.chain.layers[0].phi

    def footprints(self, stages: Sequence[StageGrouping], size: int | None = None) -> tuple[Footprint, ...]:
        """Those of its layers: outputs are kept, and inputs too where activations read them on the way back."""
        (own,) = stages
        parameters = self.count_stages("parameters", stages)
        *layers, last = chain_footprints(self.chain, own.widths, own.multiplicity, parameters=parameters)
        # what the last layer reads of several members is a scaled copy
        scaled = own.multiplicity * own.widths[-1] if own.multiplicity > 1 and self.activation.keeps_output else 0
        return *layers, replace(last, kept=last.kept + scaled)

    def repeated_channels(self, shape: tuple[int, ...]) -> None:
        """Samples of any shape, flattened, whose numbers are as many as the inputs."""
        inputs = math.prod(shape)
        if inputs != self.chain.channels:
            raise SampleMismatch(
                f"has {counted(inputs, 'input')} and the network takes {self.chain.channels}",
                f"give 'inputs': {inputs}",
            )

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        """Those of ``MlpEnsemble``; rectifiers are its default."""
        inputs, *hidden, outputs = self._sizes(widths)
        phi, given = self.activation, {}
        if phi.name != "relu":
            given = {"activation": phi.name, "parameter": phi.parameter, "gains": list(self.chain.gains)}
        return {
            "inputs": inputs,
            "hidden": hidden,
            "outputs": outputs,
            "members": multiplicity,
            "bias": self.chain.bias,
            **given,
        }

    def _sizes(self, widths: Sequence[int]) -> list[int]:
        return [shape[0] for shape in self.chain.shapes(widths)]


def mlp_chain(inputs: int, hidden: int, outputs: int, bias: bool = False, activation: Activation = RELU) -> Chain:
    """The chain of an MLP with ``hidden`` hidden layers, every one free."""
    name, parameter = activation.name, activation.parameter
    layers = tuple(WeightLayer("dense", Free(index), name, parameter=parameter) for index in range(hidden))
    names = tuple(f"n{index + 1}" for index in range(hidden))
    return Chain(inputs, 1, 1, (*layers, WeightLayer("dense", outputs, "linear")), names, bias)


def _lower(baseline: MlpBaseline) -> MlpNetwork:
    inputs, hidden, outputs = baseline.inputs, baseline.hidden, baseline.outputs
    activation = lowered(baseline.activation)
    chain = mlp_chain(inputs, len(hidden), outputs, baseline.bias, activation)
    return MlpNetwork(_title(inputs, hidden, outputs, activation), chain, hidden, 1)


def _title(inputs: int, hidden: Sequence[int], outputs: int, activation: Activation) -> str:
    kind = "MLP" if activation.name == "relu" else f"{activation.title} MLP"
    return f"{kind} {inputs}→{list(hidden)}→{outputs}"


MLP = Family(
    summary="fully connected networks of one activation",
    baseline=MlpBaseline,
    lower=_lower,
    module="collegium.train.models.ensembles:MlpEnsemble",
    dropout=True,
)
