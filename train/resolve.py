"""From the architecture that a training names to one of definite widths and multiplicity. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search.lower import network_of, resolve
from search.network import MlpNetwork, Network, ResidualNetwork
from search.problem import InvalidSpec
from search.spec import SearchSpec
from train.architecture import BaselineArchitecture, Member, SearchedArchitecture


@dataclass(frozen=True)
class Grouped:
    """``multiplicity`` members of the free ``widths``, of the network that ``network`` describes."""

    network: Network
    widths: tuple[int, ...]
    multiplicity: int

    @property
    def parameters(self) -> int:
        """Parameters of the whole network."""
        return self.network.count("parameters", self.widths, self.multiplicity)

    @property
    def title(self) -> str:
        """The network in a few words, such as ``20 × MLP 64→[17, 17]→10``."""
        network, m = self.network, self.multiplicity
        if isinstance(network, MlpNetwork):
            inputs, *hidden, outputs = (shape[0] for shape in network.chain.shapes(self.widths))
            return f"{m} × MLP {inputs}→{hidden}→{outputs}"
        if (self.widths, m) == (network.baseline, network.multiplicity):
            return network.title
        return f"{m} × {'·'.join(map(str, self.widths))} of {network.title}"

    @property
    def outputs(self) -> int:
        """Scores that the network gives."""
        if isinstance(self.network, ResidualNetwork):
            return self.network.classes
        return self.network.chain.shapes(self.widths)[-1][0]

    def with_outputs(self, outputs: int) -> Grouped:
        """The same architecture with a head for ``outputs`` classes."""
        if isinstance(self.network, ResidualNetwork):
            return replace(self, network=replace(self.network, classes=outputs))
        chain = self.network.chain
        head = replace(chain.layers[-1], out=outputs)
        return replace(self, network=replace(self.network, chain=replace(chain, layers=(*chain.layers[:-1], head))))

    def describe(self) -> dict[str, Any]:
        """Family and sizes as plain values."""
        kind = {MlpNetwork: "mlp", ResidualNetwork: "resnext"}.get(type(self.network), "block")
        return {
            "family": kind,
            "title": self.title,
            "widths": list(self.widths),
            "multiplicity": self.multiplicity,
            "outputs": self.outputs,
            "parameters": self.parameters,
        }


def grouped(architecture: BaselineArchitecture) -> Grouped:
    """The definite form of a baseline at given widths. Raises ``InvalidSpec`` with a path below ``architecture``."""
    try:
        network = network_of(architecture.baseline)
    except InvalidSpec as problem:
        raise InvalidSpec(("architecture", *problem.path), problem.message) from None
    multiplicity = architecture.multiplicity
    if architecture.widths is not None:
        widths = architecture.widths
        if len(widths) != len(network.baseline):
            names = list(network.chain.names)
            raise InvalidSpec(("architecture", "widths"), f"this baseline has {len(names)} free widths {names}")
    elif architecture.width is not None:
        widths = network.scaled(architecture.width)
    else:
        widths = network.baseline
        multiplicity = network.multiplicity if multiplicity is None else multiplicity
    return Grouped(network, tuple(widths), 1 if multiplicity is None else multiplicity)


def answer_of(
    architecture: SearchedArchitecture, search: Mapping[str, Any], result: Mapping[str, Any]
) -> BaselineArchitecture:
    """The architecture that a finished search's answer describes, from that search's spec and result as JSON.

    Raises ``InvalidSpec`` where the search has no such answer.
    """
    baseline = SearchSpec.model_validate_json(_json(search)).baseline
    choice = architecture.choice
    if isinstance(choice, Member):
        return BaselineArchitecture(
            baseline=baseline, width=choice.width, widths=choice.widths, multiplicity=choice.multiplicity
        )
    answer = result.get(choice)
    if answer is None:
        raise InvalidSpec(
            ("architecture", "choice"),
            f"the search has no {choice} answer: {(result.get('outcome') or {}).get('message', 'see its outcome')}",
        )
    return BaselineArchitecture(
        baseline=resolve(baseline), widths=tuple(answer["widths"]), multiplicity=answer["multiplicity"]
    )


def _json(value: Mapping[str, Any]) -> str:
    import json

    return json.dumps(value)
