"""What the measurement of whole networks' kernels found: one row for each network, and of what it speaks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from collegium.search.part import MemberWidths, Part
from collegium.search.whole_network.spec import Norm, Parameterization

#: Levels of the quantiles that a ``Spread`` gives.
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Spread(Part):
    """How a number varies over initializations; ``quantiles`` are those of the levels 5, 25, 50, 75 and 95 %."""

    mean: float
    standard_deviation: float
    quantiles: tuple[float, ...] = Field(min_length=len(LEVELS), max_length=len(LEVELS))


class GramSummary(Part):
    """The kernel's Gram matrix over ``inputs`` inputs, averaged over the logits measured, one for each initialization.

    A condition number past what single precision resolves, 10⁶, counts as 10⁶.
    """

    inputs: int
    trace: Spread
    largest_eigenvalue: Spread
    condition_number: Spread


class MeasuredNetwork(MemberWidths):
    """One network's relative variance Var(K) / E[K]² of a diagonal entry, and its ratio to the baseline's.

    ``body_share`` is the part of the variance that all logits have in common, Var(E[K | all but the head]); null where
    one logit was measured. ``ratio`` is null where the baseline's variance is zero. ``converged``: the ratio (for the
    baseline, its variance) has the relative error asked for. ``label`` is the grouping in a few characters; where every
    stage has its own, ``widths`` and ``multiplicity`` are the first stage's.
    """

    name: str
    title: str
    label: str
    multiplicity: int
    parameters: int
    draws: int
    mean: float
    relative_variance: float
    standard_error: float | None
    ratio: float | None
    ratio_standard_error: float | None
    converged: bool
    body_share: float | None
    gram: GramSummary


class NetworkVerification(Part):
    """Whole networks' kernels at initialization, the baseline's first.

    ``outcome`` is ``measured``, or ``not_converged`` where a ratio is less certain than was asked. ``seconds`` have
    passed; the draws took ``core_seconds`` of processor time, of all cores together. ``statement`` says of what the
    figures speak.
    """

    networks: tuple[MeasuredNetwork, ...]
    outcome: Literal["measured", "not_converged"]
    statement: str
    parameterization: Parameterization
    norm: Norm
    images: int
    inputs: int
    outputs: int
    sample_shape: tuple[int, ...]
    pixels: int | None
    correlation: float | None
    relative_error: float
    device: str
    seed: int
    seconds: float
    core_seconds: float

    def network(self, name: str) -> MeasuredNetwork:
        """The row of that name. Raises ``KeyError`` where there is none."""
        for row in self.networks:
            if row.name == name:
                return row
        raise KeyError(name)
