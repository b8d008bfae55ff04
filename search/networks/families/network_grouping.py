"""A described network as grouping problems: one for each group of branches of the same inner structure.

A group's branches are tied: m members whose widths are those of the smallest branch, times each branch's own scale.
What no branch of the group accounts for is fixed. Groups share nothing but the budget, so each is solved alone, within
its own share of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.families.attention import attention_note
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_chains import (
    branch_chain,
    layer_widths,
    member_widths,
    reason,
    searched,
    width_grains,
)
from collegium.search.networks.families.network_extents import at_graph
from collegium.search.networks.families.network_graph import check_graph, member_cost
from collegium.search.networks.families.network_module import GraphNetwork, with_head
from collegium.search.networks.family import Family
from collegium.search.networks.graph.infer import Inferred
from collegium.search.networks.graph.regroup import Change
from collegium.search.networks.network import Measure, Network, StageGrouping

#: Share of the parameters below which a part that is left as it is goes without saying.
SMALL = 0.01


@dataclass(frozen=True)
class DescribedNetwork(GraphNetwork):
    """A described network whose branches of one group are regrouped together; all else is fixed.

    ``branches`` are those of the group, the most frequent of the smallest first: its chain is the one whose kernel is
    studied. Norms are not in the kernel: at initialization they rescale what the gains keep at unit size. Their scales
    and shifts are counted. Neither is a bias of the last layer alone: it adds the same number to every K.
    """

    branches: tuple[Branch, ...] = field(kw_only=True)

    @cached_property
    def _parts(self) -> tuple[DescribedNetwork, ...]:
        found = [_part(self.described, group) for group in searched_groups(self.described)]
        parts = tuple(sorted(found, key=lambda part: -part.own_cost("parameters")))
        for part in parts:
            vars(part)["_parts"] = parts  # those of each part are the same, and are not looked for again
        return parts

    @property
    def parts(self) -> tuple[Network, ...]:
        """The network once for each group that can be searched, the largest first."""
        return self._parts or (self,)

    @property
    def names(self) -> tuple[str, ...]:
        """The branches that are regrouped."""
        return tuple(branch.name for branch in self.branches)

    @property
    def subject(self) -> str:
        """Branches alone: what stands around them is not in it, where anything does."""
        if not self.has_subject:
            return "no branch, as none can be searched"
        names = ", ".join(self.names[:4]) + (", …" if len(self.names) > 4 else "")
        if (
            sum(branch.count for branch in self.branches) == 1
            and self.own_cost("parameters") == self.described.parameters
        ):
            return (
                f"the kernel at initialization of the one branch ({names}), which has all of the network's parameters"
            )
        return f"the kernel of one branch at initialization ({names}), not of the network"

    @property
    def has_subject(self) -> bool:
        """Whether there is a branch to be searched."""
        return bool(self.branches)

    @property
    def grouping_matters(self) -> bool:
        """False where nothing of the network can be searched."""
        return bool(self.branches)

    @property
    def unsearched(self) -> tuple[str, ...]:
        """Why parts of the network are left as they are, one sentence each, the largest first.

        Parts of less than 1 % of the parameters, such as norms, are named by the description alone. Attention comes
        first, with the call that gives the curve over the width of its heads.
        """
        said: dict[str, None] = dict.fromkeys(attention_note(self.described.attention))
        for branch in sorted(self.described.branches, key=lambda each: -each.count * each.parameters):
            why = reason(branch)
            if why is not None and branch.count * branch.parameters >= SMALL * self.described.parameters:
                pieces = ", ".join(piece.name for piece in searched(branch))
                said[f"{branch.name}: {why}" + (f"; {pieces} are searched alone" if pieces else "")] = None
        return tuple(said)

    @property
    def could_be_split(self) -> bool:
        """Whether a branch has free widths and a layer that is not searched."""
        return any(branch.splittable and reason(branch) is not None for branch in self.described.branches)

    @property
    def rounding_share(self) -> float:
        """This group's share of what all groups cost, and so of the tolerance for rounding."""
        own = [part.own_cost("parameters") for part in self._parts]
        return self.own_cost("parameters") / sum(own) if self.branches and len(own) > 1 else 1.0

    @property
    def stage_scales(self) -> tuple[int, ...]:
        """By how much the branches' widths are multiples of the smallest one's, ascending."""
        return self._stage_scales

    @cached_property
    def _stage_scales(self) -> tuple[int, ...]:
        return tuple(sorted(set(self._scales))) or (1,)

    @property
    def width_grains(self) -> tuple[int, ...]:
        """Groups of layers and norms inside of a member divide its widths."""
        return self._width_grains

    @cached_property
    def _width_grains(self) -> tuple[int, ...]:
        return width_grains(self.branches[0]) if self.branches else self.chain.width_grains

    @property
    def separable(self) -> bool:
        """Branches of one scale can be grouped apart from others."""
        return True

    @property
    def counted_layers(self) -> range:
        """Every weight layer of the branch."""
        return range(len(self.chain.layers))

    def own_cost(self, measure: Measure) -> int:
        """What the branches of the group cost as they are."""
        return sum(branch.count * getattr(branch, measure) for branch in self.branches)

    def fixed_cost(self, measure: Measure) -> int:
        """All but the members: other branches, and the biases of the group's last layers, which members share."""
        return self._fixed_costs[measure]

    @cached_property
    def _fixed_costs(self) -> dict[Measure, int]:
        measures: tuple[Measure, ...] = ("parameters", "flops")
        return {
            measure: getattr(self.described, measure)
            - sum(
                branch.count * self._free(branch, scale, measure)
                for branch, scale in zip(self.branches, self._scales, strict=True)
            )
            for measure in measures
        }

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """One member's share of every branch of the group; without any, one unit that stands for the whole network."""
        if not self.branches:
            return getattr(self.described, measure) - 1, widths[0]
        per_member = sum(
            self.stage_cost(measure, index, [scale * width for width in widths])
            for index, scale in enumerate(self.stage_scales)
        )
        return self.fixed_cost(measure), per_member

    def stage_cost(self, measure: Measure, stage: int, widths: Sequence[int]) -> int:
        """One member's share of the branches of one scale."""
        scale = self.stage_scales[stage]
        return sum(
            branch.count * member_cost(branch, widths, measure)
            for branch, own in zip(self.branches, self._scales, strict=True)
            if own == scale
        )

    def _free(self, branch: Branch, scale: int, measure: Measure) -> int:
        widths = [scale * width for width in self.baseline]
        return self.multiplicity * member_cost(branch, widths, measure)

    @cached_property
    def _scales(self) -> tuple[int, ...]:
        """Of each branch, by how much its widths are multiples of the smallest one's."""
        return tuple(member_widths(branch)[0] // self.baseline[0] for branch in self.branches)

    def modules(self, stages: Sequence[StageGrouping]) -> tuple[tuple[Any, StageGrouping], ...]:
        """Of every branch of the group the paths of its modules, occurrence by occurrence, with its members."""
        at = dict(zip(self.stage_scales, stages, strict=True))
        return tuple(
            (branch.paths, _of_layers(branch, at[scale]))
            for branch, scale in zip(self.branches, self._scales, strict=True)
            if branch.paths
        )

    def title_at(self, widths: Sequence[int], multiplicity: int) -> str:
        """Such as ``12×10 in layer1.1, layer2.1 of ResNet``."""
        if (tuple(widths), multiplicity) == (self.baseline, self.multiplicity):
            return self.title
        return f"{StageGrouping(tuple(widths), multiplicity)} in {', '.join(self.names)} of {self.title}"

    def changes(self, stages: Sequence[StageGrouping]) -> tuple[Change, ...]:
        """Those of the branches of the group."""
        return self.modules(self._checked(stages)) if self.branches else ()

    def with_outputs(self, outputs: int) -> DescribedNetwork:
        """The same network with a head for ``outputs`` classes. Raises ``SampleMismatch`` where its end is no head."""
        found = with_head(self.described, outputs)
        names = {branch.name: branch for branch in found.branches}
        own = tuple(names.get(branch.name, branch) for branch in self.branches)
        return replace(self, described=found, branches=own)

    def at(self, described: NetworkBaseline, found: Inferred) -> DescribedNetwork:
        """The branches of the group have their extents in the graph."""
        return replace(self, described=described, branches=tuple(at_graph(branch, found) for branch in self.branches))


def _of_layers(branch: Branch, grouping: StageGrouping) -> StageGrouping:
    """The grouping with a width for each layer."""
    return StageGrouping(layer_widths(branch, grouping.widths), grouping.multiplicity)


def searched_groups(baseline: NetworkBaseline) -> list[tuple[Branch, ...]]:
    """Branches that are searched, or their pieces, those that are tied together."""
    return tied_groups(piece for branch in baseline.branches for piece in searched(branch))


def tied_groups(branches: Iterable[Branch]) -> list[tuple[Branch, ...]]:
    """Branches by group, where their widths are multiples of the smallest one's; the first of a tuple has these."""
    named: dict[str, list[tuple[tuple[int, ...], Branch]]] = {}
    for branch in branches:
        named.setdefault(branch.group or branch.name, []).append((member_widths(branch), branch))
    found: list[tuple[Branch, ...]] = []
    for members in named.values():
        left = sorted(members, key=lambda each: (each[0], -each[1].count))
        while left:
            base = left[0][0]
            found.append(tuple(branch for widths, branch in left if _is_multiple(widths, base)))
            left = [each for each in left if not _is_multiple(each[0], base)]
    return found


def _is_multiple(widths: tuple[int, ...], base: tuple[int, ...]) -> bool:
    scale = widths[0] // base[0]
    return widths == tuple(scale * width for width in base)


def _part(baseline: NetworkBaseline, group: tuple[Branch, ...]) -> DescribedNetwork:
    first = group[0]
    return DescribedNetwork(
        baseline.name,
        branch_chain(first),
        member_widths(first),
        first.multiplicity,
        family="network",
        described=baseline,
        branches=group,
    )


def _lower(baseline: NetworkBaseline) -> DescribedNetwork:
    """The network with its largest group of branches; without any, one in which nothing can be grouped."""
    check_graph(baseline)
    groups = searched_groups(baseline)
    if groups:
        largest = max(groups, key=lambda group: sum(branch.count * branch.parameters for branch in group))
        return _part(baseline, largest)
    layers = (WeightLayer("dense", Free(0)), WeightLayer("dense", min(baseline.outputs, 1), "linear"))
    return DescribedNetwork(baseline.name, Chain(1, 1, 1, layers, ("n1",)), (1,), 1, described=baseline, branches=())


NETWORK = Family(
    summary="any network, as collegium.describe reads it from its module",
    baseline=NetworkBaseline,
    lower=_lower,
    module="collegium.search.regroup.grouped:GraphNetwork",
)
