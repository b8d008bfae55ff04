"""A network of which several parts are grouped: each is a search of its own, within its share of the budget.

Parts share nothing but what they cost together. The default objective leaves every part its own share: moving budget
between parts of a network by the sum of their variances was measured, and gains nothing in the network as a whole
(docs/network.md). So each part is solved alone, exactly as if it were the only one.

Counts of parts add up, and so their shares do. Time and memory do not quite: the answers of all parts together are
measured whole, and where they exceed what was allowed, the parts are searched again with less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from collegium.search.latency.limits import CostName
from collegium.search.networks.network import Network
from collegium.search.progress import Report, scaled
from collegium.search.result import SearchResult
from collegium.search.several.shares import part_spec
from collegium.search.several.together import combined
from collegium.search.several.whole import CostsOfWhole
from collegium.search.spec import SearchSpec

#: Runs one part's search.
RunPart = Callable[[SearchSpec, Network, Report], SearchResult]
#: Share of the progress in which the baseline is measured.
BEGUN = 0.05
#: Searches of all parts, at most, before answers that take too much are dropped.
ROUNDS = 4


def run_parts(
    spec: SearchSpec, network: Network, run: RunPart, report: Report, costs: CostsOfWhole | None = None
) -> SearchResult:
    """The searches of all parts, and their answers as one network; ``costs`` measures these, where that is asked."""
    if costs is None:
        return _round(spec, network, run, report)[0]
    costs.begin(scaled(report, 0.0, BEGUN))
    allowed = costs.given
    found, measured = _measured_round(spec, network, run, report, costs, allowed, 0)
    for index in range(1, ROUNDS):
        exceeded = costs.exceeded(measured)
        if not exceeded:
            break
        for cost, excess in exceeded.items():
            allowed[cost] = allowed.get(cost, costs.most[cost]) - excess
        _, measured = _measured_round(spec, network, run, report, costs, allowed, index)
    # what a later round reads was drawn by the first one
    return costs.within(measured).model_copy(update={"reused": found.reused})


def _measured_round(
    spec: SearchSpec,
    network: Network,
    run: RunPart,
    report: Report,
    costs: CostsOfWhole,
    allowed: Mapping[CostName, float],
    index: int,
) -> tuple[SearchResult, SearchResult]:
    """One round, which takes half of what is left of the progress, and the same with its answers measured."""
    share = scaled(report, 1 - (1 - BEGUN) / 2**index, 1 - (1 - BEGUN) / 2 ** (index + 1))
    found, each = _round(spec, network, run, scaled(share, 0.0, 0.9), costs, allowed)
    return found, costs.of(found, each, scaled(share, 0.9, 1.0))


def _round(
    spec: SearchSpec,
    network: Network,
    run: RunPart,
    report: Report,
    costs: CostsOfWhole | None = None,
    allowed: Mapping[CostName, float] | None = None,
) -> tuple[SearchResult, list[SearchResult]]:
    parts, found = network.parts, []
    for index, part in enumerate(parts):
        share = scaled(report, index / len(parts), (index + 1) / len(parts))
        measured = None if costs is None else costs.shares(index, allowed or {})
        found.append(run(part_spec(spec, parts, part, measured), part, share))
    return combined(spec, parts, found), found
