"""From the architecture that a training names to one of definite groupings. Nothing here loads torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from collegium.counted import counted
from collegium.search.errors import InvalidSpec, Location, SampleMismatch
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network_module import GraphNetwork, RegroupedNetwork, regroup_branches
from collegium.search.networks.graph.tokens import UnknownInput
from collegium.search.networks.network import Network, StageGrouping
from collegium.search.spec import Baseline, SearchSpec
from collegium.train.data.format import Sample
from collegium.train.errors import Mismatch
from collegium.train.spec.architecture import (
    Architecture,
    BaselineArchitecture,
    BranchGroupingSpec,
    Grouping,
    SearchedArchitecture,
    StageGroupingSpec,
    TransformerArchitecture,
)


@dataclass(frozen=True)
class GroupedNetwork:
    """A network regrouped: every stage has so many members of its widths."""

    network: Network
    stages: tuple[StageGrouping, ...]

    @classmethod
    def tied(cls, network: Network, widths: Sequence[int], multiplicity: int) -> GroupedNetwork:
        """``multiplicity`` members of the free ``widths``, scaled with every stage."""
        return cls(network, network.stage_groupings(widths, multiplicity))

    @property
    def as_described(self) -> bool:
        """Whether it is a described network of which nothing is regrouped: no m × n is that of the network."""
        network = self.network
        if not isinstance(network, GraphNetwork) or isinstance(network, RegroupedNetwork):
            return False
        return self.stages == network.stage_groupings(network.baseline, network.multiplicity)

    @property
    def _tied(self) -> tuple[tuple[int, ...], int] | None:
        return None if self.as_described else self.network.tied(self.stages)

    @property
    def widths(self) -> tuple[int, ...] | None:
        """The free widths of a member; None where one m × n does not give those of every stage."""
        return None if self._tied is None else self._tied[0]

    @property
    def multiplicity(self) -> int | None:
        """The number of members; None where one m × n does not give the grouping of every stage."""
        return None if self._tied is None else self._tied[1]

    @property
    def own_stages(self) -> tuple[StageGrouping, ...] | None:
        """The grouping of each stage; None where one m × n gives them all, and where nothing is regrouped."""
        return self.stages if self._tied is None and not self.as_described else None

    @property
    def parameters(self) -> int:
        """Parameters of the whole network."""
        return self.network.count_stages("parameters", self.stages)

    @property
    def flops(self) -> int:
        """Multiply–accumulate operations of the whole network for one sample."""
        return self.network.count_stages("flops", self.stages)

    @property
    def title(self) -> str:
        """The network in a few words, such as ``20 × MLP 64→[17, 17]→10``."""
        return self.network.title_of(self.stages)

    @property
    def features(self) -> int:
        """Numbers that the forward pass of one sample keeps for the backward pass."""
        return self.network.features_of(self.stages)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the family's module."""
        return self.network.arguments_of(self.stages)

    @property
    def outputs(self) -> int:
        """Logits that the network gives."""
        return self.network.outputs

    @property
    def samples(self) -> tuple[int, ...]:
        """Shape of the samples that a described network takes; empty for networks of other families."""
        return self.network.described.input if isinstance(self.network, GraphNetwork) else ()

    def with_outputs(self, outputs: int) -> GroupedNetwork:
        """The same architecture with a head for ``outputs`` classes."""
        return replace(self, network=self.network.with_outputs(outputs))

    def with_samples(self, shape: tuple[int, ...]) -> GroupedNetwork:
        """The same architecture for samples of this shape. Raises ``SampleMismatch`` where it does not take them."""
        return replace(self, network=self.network.with_samples(shape))

    def describe(self) -> dict[str, Any]:
        """Family and sizes as plain values; ``widths`` and ``multiplicity`` or ``stages`` are null, or all of them."""
        widths, own = self.widths, self.own_stages
        return {
            "family": self.network.family,
            "title": self.title,
            "widths": None if widths is None else list(widths),
            "multiplicity": self.multiplicity,
            "stages": None if own is None else [_plain(stage) for stage in own],
            "outputs": self.outputs,
            "parameters": self.parameters,
        }


def _plain(stage: StageGrouping) -> dict[str, Any]:
    return {"widths": list(stage.widths), "multiplicity": stage.multiplicity}


def group_network(architecture: BaselineArchitecture) -> GroupedNetwork:
    """The definite form of a baseline at given widths. Raises ``InvalidSpec`` with a path below ``architecture``."""
    try:
        network = build_network(architecture.baseline)
    except InvalidSpec as problem:
        raise InvalidSpec(("architecture", *problem.path), problem.message) from None
    _require_module(network, ("architecture", "baseline", "family"))
    if architecture.branches is not None:
        return _branches(network, architecture)
    if architecture.stages is not None:
        _require_one_part(network, "stages")
        return _built(
            GroupedNetwork(network, _stage_groupings(network, architecture.stages)), ("architecture", "stages")
        )
    multiplicity = architecture.multiplicity
    given = next(
        (name for name in ("width", "widths", "multiplicity") if getattr(architecture, name) is not None), None
    )
    if given is not None:
        _require_one_part(network, given)
    if architecture.widths is not None or architecture.width is not None:
        widths = _widths(network, architecture, ("architecture",))
    else:
        widths = network.baseline
        multiplicity = network.multiplicity if multiplicity is None else multiplicity
    tied = GroupedNetwork.tied(network, widths, 1 if multiplicity is None else multiplicity)
    return _built(tied, ("architecture", given) if given is not None else ("architecture", "baseline", "graph"))


def _require_one_part(network: Network, name: str) -> None:
    """Refuse one grouping for a network whose branches are of several kinds."""
    if len(network.parts) > 1:
        raise InvalidSpec(
            ("architecture", name),
            f"{len(network.parts)} parts of this network are grouped apart: give 'branches', with a grouping for each",
        )


def _require_module(network: Network, path: Location) -> None:
    """Refuse a network that cannot be built here, and one that does not classify."""
    if network.not_built is not None:
        if not network.is_described:
            raise InvalidSpec(path, network.not_built)
        raise InvalidSpec(
            path,
            f"this described network cannot be built here ({network.not_built}): regroup it with "
            "collegium.regroup(model, answer.primal), and train that",
        )
    if isinstance(network, GraphNetwork) and not network.classifies:
        raise InvalidSpec(
            path, "trainings here are of classifiers: describe a network that gives one row of numbers for a sample"
        )
    if isinstance(network, GraphNetwork):
        _require_known_inputs(network, path)


def _require_known_inputs(network: GraphNetwork, path: Location) -> None:
    """Refuse a network of tokens with an input that does not follow from them."""
    try:
        _ = network.token_roles
    except UnknownInput as error:
        raise InvalidSpec(path, f"inputs[{error.place}] of its graph: {error.message}") from None


def _branches(network: Network, architecture: BaselineArchitecture) -> GroupedNetwork:
    """The branches of a described network as they are given."""
    path = ("architecture", "branches")
    if not isinstance(network, GraphNetwork):
        raise InvalidSpec(path, f"networks of the family {network.family} have no branches: leave it out")
    given = [
        (each.branch, each.widths if each.width is None else each.width, each.multiplicity)
        for each in architecture.branches or ()
    ]
    try:
        found = regroup_branches(network, [(name, widths or (), m) for name, widths, m in given])
    except InvalidSpec as problem:
        raise InvalidSpec((*path, *problem.path), problem.message) from None
    return _built(GroupedNetwork(found, found.stages), path)


def _built(grouped: GroupedNetwork, path: Location) -> GroupedNetwork:
    """Refuse a grouping at which a described network does not hold together."""
    if isinstance(grouped.network, GraphNetwork):
        try:
            grouped.network.regrouped(grouped.stages)
        except InvalidSpec as problem:
            raise InvalidSpec(path, problem.message) from None
    return grouped


def _stage_groupings(network: Network, stages: Sequence[StageGroupingSpec]) -> tuple[StageGrouping, ...]:
    path = ("architecture", "stages")
    count = len(network.stage_scales)
    if len(stages) != count:
        each = "one stage: give one grouping" if count == 1 else f"{count} stages: give a grouping for each of them"
        raise InvalidSpec(path, f"this network has {each}")
    groupings = tuple(
        StageGrouping(_widths(network, stage, (*path, index)), stage.multiplicity) for index, stage in enumerate(stages)
    )
    if not network.separable and network.tied(groupings) is None:
        raise InvalidSpec(path, f"networks of the family {network.family} have one m × n for all stages: give that")
    return groupings


def _widths(network: Network, given: BaselineArchitecture | StageGroupingSpec, path: Location) -> tuple[int, ...]:
    """The width vector of what has a tied ``width`` or ``widths``."""
    if given.widths is None:
        assert given.width is not None
        return network.scaled(given.width)
    if len(given.widths) != len(network.baseline):
        names = list(network.chain.names)
        raise InvalidSpec((*path, "widths"), f"this baseline has {counted(len(names), 'free width')} {names}")
    return given.widths


def for_samples(ensemble: GroupedNetwork, data: str, shape: tuple[int, ...]) -> tuple[GroupedNetwork, int | None]:
    """``ensemble`` for samples of ``shape``, and the channels to which grey images must be repeated, if any.

    Raises ``Mismatch`` where the network does not take samples of this shape.
    """
    try:
        fit = ensemble.with_samples(shape)
        return fit, fit.network.repeated_channels(shape)
    except SampleMismatch as mismatch:
        raise Mismatch(f"{data} {mismatch.message}", mismatch.remedy) from None


def for_tokens(ensemble: GroupedNetwork, data: str, sample: Sample) -> GroupedNetwork:
    """``ensemble`` as a function of the tokens of ``data`` alone. Raises ``Mismatch`` where it does not take them."""
    if not isinstance(ensemble.network, GraphNetwork):
        raise Mismatch(
            f"{data} holds sequences of tokens", "train a transformer on it, or a described network that reads tokens"
        )
    if sample.rewritten:
        raise Mismatch(
            f"the labels of {data} are sequences of tokens, and described networks are trained as classifiers",
            "choose 'labels': 'classes' in the data's options, or train t5 or bart",
        )
    try:
        return replace(ensemble, network=ensemble.network.with_tokens(sample.shape[0], sample.vocabulary))
    except SampleMismatch as mismatch:
        raise Mismatch(f"{data} {mismatch.message}", mismatch.remedy) from None


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
            for_tokens(group_network(architecture), data, sample)
        else:
            for_samples(group_network(architecture), data, sample.shape)


def architecture_from_search(
    architecture: SearchedArchitecture, search: Mapping[str, Any], result: Mapping[str, Any]
) -> BaselineArchitecture:
    """The architecture that a finished search's answer describes, from that search's spec and result as JSON.

    An answer whose stages are grouped each in its own way is described by its ``stages``, any other one by its widths
    and multiplicity. Raises ``InvalidSpec`` where the search has no such answer, or where a grouping that is given as
    the choice is not one of its network.
    """
    baseline = SearchSpec.model_validate_json(json.dumps(search)).baseline
    choice = architecture.choice
    network = build_network(baseline)
    _require_module(network, ("architecture", "search"))
    if isinstance(choice, Grouping):
        return _chosen(baseline, choice)
    answer = result.get(choice) or _stored_recommendation(choice, result)
    if answer is None:
        raise InvalidSpec(
            ("architecture", "choice"),
            f"the search has no {choice} answer: {(result.get('outcome') or {}).get('message', 'see its outcome')}",
        )
    if network.is_described:
        branches = answer.get("branches") if choice != "baseline" else None
        return BaselineArchitecture(baseline=baseline, branches=_branch_specs(branches) if branches else None)
    groupings = tuple(StageGrouping(tuple(each["widths"]), each["multiplicity"]) for each in answer.get("stages") or ())
    if groupings and network.tied(groupings) is None:
        stages = tuple(StageGroupingSpec(widths=each.widths, multiplicity=each.multiplicity) for each in groupings)
        return BaselineArchitecture(baseline=baseline, stages=stages)
    return BaselineArchitecture(baseline=baseline, widths=tuple(answer["widths"]), multiplicity=answer["multiplicity"])


def _branch_specs(branches: Sequence[Mapping[str, Any]]) -> tuple[BranchGroupingSpec, ...]:
    """The branches of an answer, by their first modules."""
    return tuple(
        BranchGroupingSpec(branch=each["paths"][0][0], widths=tuple(each["widths"]), multiplicity=each["multiplicity"])
        for each in branches
    )


def _stored_recommendation(choice: str, result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The recommended ensemble of a result that was stored without a field of its own for it."""
    if choice != "recommended" or "recommended" in result:
        return None
    member = (result.get("near_optimal") or {}).get("recommended") or {}
    return member.get("primal") or member.get("dual")


def _chosen(baseline: Baseline, choice: Grouping) -> BaselineArchitecture:
    """A grouping of the search's network, checked with the path of the choice."""
    found = BaselineArchitecture(
        baseline=baseline,
        width=choice.width,
        widths=choice.widths,
        multiplicity=choice.multiplicity,
        stages=choice.stages,
    )
    try:
        group_network(found)
    except InvalidSpec as error:
        raise InvalidSpec(("architecture", "choice", *error.path[1:]), error.message) from None
    return found
