"""From the architecture that a training names to one of definite widths and multiplicity. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.networks.build import build_network, expand_preset
from collegium.search.networks.network import Network
from collegium.search.spec import SearchSpec
from collegium.train.data.format import Sample
from collegium.train.errors import Mismatch
from collegium.train.spec.architecture import (
    Architecture,
    BaselineArchitecture,
    Grouping,
    SearchedArchitecture,
    TransformerArchitecture,
)


@dataclass(frozen=True)
class GroupedNetwork:
    """A network regrouped as m × n: ``multiplicity`` members of the free ``widths``."""

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
        return self.network.title_at(self.widths, self.multiplicity)

    @property
    def features(self) -> int:
        """Numbers that the forward pass of one sample keeps for the backward pass."""
        return self.network.features_per_sample(self.widths, self.multiplicity)

    @property
    def outputs(self) -> int:
        """Logits that the network gives."""
        return self.network.outputs

    def with_outputs(self, outputs: int) -> GroupedNetwork:
        """The same architecture with a head for ``outputs`` classes."""
        return replace(self, network=self.network.with_outputs(outputs))

    def describe(self) -> dict[str, Any]:
        """Family and sizes as plain values."""
        return {
            "family": self.network.family,
            "title": self.title,
            "widths": list(self.widths),
            "multiplicity": self.multiplicity,
            "outputs": self.outputs,
            "parameters": self.parameters,
        }


def group_network(architecture: BaselineArchitecture) -> GroupedNetwork:
    """The definite form of a baseline at given widths. Raises ``InvalidSpec`` with a path below ``architecture``."""
    try:
        network = build_network(architecture.baseline)
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
    return GroupedNetwork(network, tuple(widths), 1 if multiplicity is None else multiplicity)


def repeated_channels(ensemble: GroupedNetwork, data: str, shape: tuple[int, ...]) -> int | None:
    """The channels to which grey images of ``shape`` must be repeated for ``ensemble``; None where nothing is to do.

    Raises ``Mismatch`` where the network does not take samples of this shape.
    """
    try:
        return ensemble.network.repeated_channels(shape)
    except SampleMismatch as mismatch:
        raise Mismatch(f"{data} {mismatch.message}", mismatch.remedy) from None


def sequences_for(data: str) -> Mismatch:
    """Why an architecture that is no transformer cannot be trained on tokens."""
    return Mismatch(f"{data} holds sequences of tokens", "train a transformer on it")


def arrays_for(data: str) -> Mismatch:
    """Why a transformer cannot be trained on anything but tokens."""
    return Mismatch(f"{data} does not hold sequences of tokens", "choose text, or another architecture")


def check_samples(architecture: Architecture, data: str, sample: Sample | None) -> None:
    """Refuse samples of ``data`` that ``architecture`` does not take, as far as they are known without reading any.

    Raises ``Mismatch``.
    """
    if sample is None:
        return
    if isinstance(architecture, TransformerArchitecture):
        if sample.kind != "tokens":
            raise arrays_for(data)
    elif isinstance(architecture, BaselineArchitecture):
        if sample.kind == "tokens":
            raise sequences_for(data)
        repeated_channels(group_network(architecture), data, sample.shape)


def architecture_from_search(
    architecture: SearchedArchitecture, search: Mapping[str, Any], result: Mapping[str, Any]
) -> BaselineArchitecture:
    """The architecture that a finished search's answer describes, from that search's spec and result as JSON.

    Raises ``InvalidSpec`` where the search has no such answer.
    """
    baseline = SearchSpec.model_validate_json(_json(search)).baseline
    choice = architecture.choice
    if isinstance(choice, Grouping):
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
        baseline=expand_preset(baseline), widths=tuple(answer["widths"]), multiplicity=answer["multiplicity"]
    )


def _json(value: Mapping[str, Any]) -> str:
    import json

    return json.dumps(value)
