"""The grouping problem of a search: the network, the inputs as a Gram matrix, the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from collegium.search.curve.source import Exact, GivenAlpha, LogRatios
from collegium.search.errors import InvalidSpec
from collegium.search.kernel.closed_form import has_closed_form
from collegium.search.kernel.inputs import KernelInputs, mean_patch_gram
from collegium.search.kernel.point import KernelPoint
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.build import validate_search
from collegium.search.networks.network import Measure, Network
from collegium.search.optimize.limits import ROUNDING_TOLERANCE, Constraints, Limit
from collegium.search.optimize.members import holds, listed_members, scaled_members, vector_members
from collegium.search.optimize.solve import Solved, solve
from collegium.search.optimize.variances import baseline_variances, stage_log_ratios
from collegium.search.spec import SearchSpec


@dataclass(frozen=True)
class GroupingProblem:
    """A validated specification, its network, and the inputs of its kernel entry."""

    spec: SearchSpec
    network: Network
    inputs: KernelInputs

    @property
    def closed_form(self) -> bool:
        """Whether the moments of the entry asked for are known exactly."""
        return has_closed_form(self.network.chain, self.spec.estimator.entry, self.inputs.pair)

    @property
    def exact(self) -> Exact:
        """ln r by the closed form."""
        return Exact(self.network, self.inputs.gram_over(self.network.chain, self.spec.estimator.entry))

    @property
    def log_ratios(self) -> LogRatios | None:
        """ln r without sampling, by the method asked for; None where it must be sampled."""
        estimator = self.spec.estimator
        if estimator.alpha is not None:
            return GivenAlpha(self.network, estimator.alpha)
        return self.exact if estimator.method != "monte_carlo" and self.closed_form else None

    @property
    def positions(self) -> int:
        """Input positions that the entry sees."""
        return input_window(self.network.chain, self.spec.estimator.entry).positions

    @property
    def measure(self) -> Measure:
        """The count of the curve: that asked for, and parameters where time or memory is to be saved."""
        return "flops" if self.spec.efficiency == "flops" else "parameters"

    @property
    def costs_decide(self) -> bool:
        """Whether time or memory decide the answers."""
        return self.spec.costs_decide and self.network.grouping_matters

    @property
    def counts_costs(self) -> bool:
        """Whether what ensembles cost in time or memory is part of the answer."""
        return self.network.grouping_matters and (self.spec.costs_decide or self.spec.workload is not None)

    @property
    def own_cost(self) -> int:
        """The baseline's own count in the measure asked for."""
        return self.network.count(self.measure, self.network.baseline, self.network.multiplicity)

    @property
    def budget(self) -> int:
        """The count to spend, in the measure asked for: the budget's, or the baseline's own."""
        return self.own_cost if self.spec.budget is None else self.spec.budget

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The budget, which rounding m may exceed where it is the baseline's own cost, and every other limit."""
        spec = self.spec
        tolerance = ROUNDING_TOLERANCE * self.network.rounding_share if spec.budget is None else 0.0
        budget = Limit(self.measure, self.budget, tolerance)
        return (budget, *(Limit(measure, most, field=field) for field, measure, most in spec.limits))

    @property
    def scales(self) -> tuple[int, ...]:
        """The widths' scales of the stages that are considered: all, or, as published, the first for a given α."""
        return (1,) if self.spec.estimator.alpha is not None else self.network.stage_scales

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The members that the space names; of a range without an end, those of which the baseline's cost buys one."""
        network, space = self.network, self.spec.space
        if space.widths is not None:
            return listed_members(network, space)
        members = vector_members(network, space) if space.mode == "vector" else scaled_members(network, space)
        if space.max_width is not None:
            return members
        own = self.own_cost
        return tuple(widths for widths in members if network.count(self.measure, widths, 1) <= own)

    def point(self, widths: tuple[int, ...]) -> KernelPoint:
        """The kernel entry of one member."""
        return KernelPoint.of(self.network.chain, widths, self.spec.estimator.entry, self.inputs)

    def at_correlation(self, correlation: float) -> GroupingProblem:
        """The same problem with inputs of another correlation between neighbouring positions."""
        return replace(self, inputs=KernelInputs(correlation, pair=self.inputs.pair))

    def constraints(self, log_ratios: LogRatios) -> Constraints:
        """The problem with the baseline's variance in every stage where it is known."""
        network = self.network
        found = stage_log_ratios(log_ratios, np.array([network.baseline]), self.scales)[0]
        known = np.isfinite(found)
        known[0] = True  # where even that is unknown, no member has a finite ratio to it
        return Constraints(
            network=network,
            measure=self.measure,
            limits=self.limits,
            baseline_variances=baseline_variances(found[known], network.multiplicity),
            scales=tuple(scale for scale, kept in zip(self.scales, known.tolist(), strict=True) if kept),
            max_multiplicity=self.spec.space.max_multiplicity,
            baseline_allowed=holds(network, self.spec.space),
            nearest_dual=self.spec.estimator.alpha is not None and network.nearest_dual_as_published,
        )

    def solve(self, members: Sequence[tuple[int, ...]], log_ratios: LogRatios) -> Solved:
        """Primal and dual over ``members``."""
        constraints = self.constraints(log_ratios)
        table = np.array(members, dtype=float).reshape(len(members), len(self.network.baseline))
        return solve(constraints, members, stage_log_ratios(log_ratios, table, constraints.scales))


def build_problem(spec: SearchSpec, images: np.ndarray | None = None) -> GroupingProblem:
    """Check a specification and turn ``inputs.data`` into the mean patch Gram of ``images``.

    ``images`` has shape (images, channels, height, width) or (images, height, width). Raises ``InvalidSpec``, also
    where the closed form is required and there is none, or the images do not fit.
    """
    network = validate_search(spec)
    return GroupingProblem(spec, network, _inputs(spec, network, images))


def _inputs(spec: SearchSpec, network: Network, images: np.ndarray | None) -> KernelInputs:
    inputs, entry = spec.inputs, spec.estimator.entry
    if inputs.data is None:
        return KernelInputs.of(inputs, network.chain, entry)  # whose Gram matrix has been validated
    window, groups = input_window(network.chain, entry), network.chain.first_groups
    if window.positions == 1 and groups == 1:
        return KernelInputs(pair=inputs.pair)
    if images is None:
        raise InvalidSpec(("inputs", "data"), f"the data set '{inputs.data}' could not be read as images")
    try:
        stem = network.stem(images.shape[1] if images.ndim == 4 else 1)
        gram = mean_patch_gram(images, window, stem=stem, groups=groups)
    except ValueError as error:
        raise InvalidSpec(("inputs", "data"), str(error)) from error
    return KernelInputs(gram=gram, pair=inputs.pair)
