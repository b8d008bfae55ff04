"""A described network as groups of branches to be regrouped, whatever their layers: nothing but costs is derived."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_chains import layer_widths, member_widths
from collegium.search.networks.families.network_grouping import SMALL, DescribedNetwork, tied_groups
from collegium.search.networks.families.network_layers import Conv, weight_layers


@dataclass(frozen=True)
class MeasuredPart(DescribedNetwork):
    """One group of branches of a module that is at hand; ``share`` is its part of what all groups cost.

    Its chain names the free widths and nothing more: no kernel is computed from it.
    """

    share: float = field(kw_only=True, default=1.0)

    @property
    def rounding_share(self) -> float:
        """This group's share of the tolerance for rounding."""
        return self.share

    @property
    def unsearched(self) -> tuple[str, ...]:
        """Why parts are left as they are, the largest first."""
        left = [
            (branch.count * branch.parameters, f"{branch.name}: {why}")
            for branch in self.described.branches
            if (why := not_measured(branch)) is not None
        ]
        least = SMALL * self.described.parameters
        return tuple(dict.fromkeys(text for size, text in sorted(left, reverse=True) if size >= least))

    def inverse_fan_in_sum(self, widths: Sequence[int]) -> float:
        """Σ 1 / fan-in of the weight layers of the group's first branch (Littwin et al. 2020, Eq. 9)."""
        branch = self.branches[0]
        layers = weight_layers(branch.layers)
        taps = [math.prod(each.kernel) if isinstance(each, Conv) else 1 for each in layers]
        apart = [isinstance(each, Conv) and each.depthwise for each in layers]
        inputs = [branch.widths[0], *layer_widths(branch, widths)]
        fans = (1 if alone else fan for alone, fan in zip(apart, inputs, strict=True))
        return sum(1 / (fan * tap) for fan, tap in zip(fans, taps, strict=True))

    def groupings(self, widths: Sequence[int], multiplicity: int) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
        """Of every branch of the group its name, m, and the widths of its members."""
        return tuple(
            (branch.name, multiplicity, tuple(scale * width for width in widths))
            for branch, scale in zip(self.branches, self._scales, strict=True)
        )


def not_measured(branch: Branch) -> str | None:
    """Why a branch is not regrouped; None where it is."""
    if not branch.splittable:
        return branch.why
    if not branch.paths:
        return "its modules are not named"
    return None


def measured_parts(described: NetworkBaseline) -> tuple[MeasuredPart, ...]:
    """The groups of branches that can be regrouped, the largest first."""
    found = [
        _part(described, group)
        for group in tied_groups(branch for branch in described.branches if not_measured(branch) is None)
    ]
    whole = sum(part.own_cost("parameters") for part in found)
    shared = [replace(part, share=part.own_cost("parameters") / whole) for part in found]
    return tuple(sorted(shared, key=lambda part: -part.share))


def _part(described: NetworkBaseline, group: tuple[Branch, ...]) -> MeasuredPart:
    first = group[0]
    outs = [Free(index) for index in range(len(first.free))]
    layers = (*(WeightLayer("dense", out, "linear") for out in outs), WeightLayer("dense", first.widths[-1], "linear"))
    names = tuple(f"n{index + 1}" for index in range(len(outs)))
    chain = Chain(first.widths[0], 1, 1, layers, names)
    return MeasuredPart(
        described.name,
        chain,
        member_widths(first),
        first.multiplicity,
        described=described,
        branches=group,
        family="network",
    )
