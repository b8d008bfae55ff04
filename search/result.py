"""The result of a search: the fitted α, both optima, the whole curve, and how far each can be trusted.

A variance is relative everywhere, Var(K) / E[K]² = r − 1, and divided by m for an ensemble of m members. Counts
(parameters, FLOPs) are those of the whole network. A result is read back from JSON, where a tuple is an array, so
these models are closed and frozen but not strict.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from collegium.search.latency.limits import CostName
from collegium.search.latency.result import CostFront
from collegium.search.part import MemberWidths, Part
from collegium.search.text import answer_text
from collegium.search.whole_network.result import NetworkVerification

OutcomeKind = Literal[
    "found",
    "infeasible_budget",
    "infeasible_space",
    "nothing_to_gain",
    "baseline_is_optimal",
    "not_converged",
    "poor_fit",
    "edge_of_space",
    "check_disagrees",
    "over_budget",
    "verification_disagrees",
    "network_disagrees",
    "network_uncertain",
    "unbounded_variance",
    "single_member",
    "dual_rounded",
    "equal_groups",
    "stages_unknown",
    "check_inconclusive",
    "verification_inconclusive",
    "times_disagree",
    "parts_unsearched",
    "no_optimum",
]
#: ``cannot_tell``: the error is so large that a relevant deviation would not have been seen.
Agreement = Literal["agree", "disagree", "cannot_tell"]


class Outcome(Part):
    """How the search ended, as one sentence, and a remedy where there is one."""

    kind: OutcomeKind
    message: str
    remedy: str | None = None


class AlphaPoint(MemberWidths):
    """One width at which ln r is known: exactly (no samples, no error), or by sampling.

    ``residual`` is ln r − α·s(n), for every point; ``used`` marks the points in the fit's window. The
    standard error is null where the samples do not determine it, and ln r where all of them were zero. Points that
    have not ``converged`` take no part in α or in the curve.
    """

    inverse_fan_in_sum: float
    samples: int
    log_moment_ratio: float | None
    standard_error: float | None
    residual: float | None
    used: bool
    converged: bool = True


class FitWindow(Part):
    """The widths (of the first free layer) that took part in the fit."""

    min_width: int
    max_width: int


class Alpha(Part):
    """The fitted α of ln r ≈ α·s(n) (Littwin et al. 2020, Eq. 9), a weighted line through the origin.

    ``slope`` is the same fit on the part of s(n) that varies with the width, without constant fan-in terms. All are
    null where no sampled point in the fit's window has converged, or nothing was fitted.
    """

    value: float | None = None
    standard_error: float | None = None
    method: Literal["exact", "monte_carlo", "given", "plain"]
    window: FitWindow | None = None
    r_squared: float | None = None
    points: tuple[AlphaPoint, ...] = ()
    slope: float | None = None
    largest_relative_residual: float | None = None


class BaselineSummary(MemberWidths):
    """The network that was posted: its counts, and the variance Var(K_ñ) / m of its kernel.

    The variance is null where it was sampled and has not converged.
    """

    title: str
    multiplicity: int
    variance: float | None
    parameters: int
    flops: int


class LayerGain(Part):
    """A weight layer's activation, and its variance gain g: at initialization its weights have the variance g / fan-in.

    Gains keep the size of a signal, see ``collegium.search.networks.activation``: of a rectifier the layer before it
    has 2 (a leaky one 2 / (1 + slope²)), of any other activation φ the layer after it 1 / E φ(z)² at z ~ N(0, 1), which
    supposes inputs of unit mean square. The last layer is linear.
    """

    activation: str
    gain: float


class StageVariance(MemberWidths):
    """The module of one stage of an ensemble: its variance, and that relative to the baseline's module there."""

    multiplicity: int
    variance: float
    relative_variance: float


class RegroupedBranch(Part):
    """A branch of a described network in an answer: ``multiplicity`` members of these inner ``widths``.

    ``paths`` names the modules of each occurrence, its convolutions, linear layers and norms in order.
    """

    paths: tuple[tuple[str, ...], ...]
    widths: tuple[int, ...]
    multiplicity: int


class SolvedEnsemble(MemberWidths):
    """An m × n ensemble: ``multiplicity`` is the integer to build, ``multiplicity_real`` solves the constraint.

    ``variance`` (of the first stage's module), ``parameters``, ``flops`` and ``efficiency`` (ρ, Littwin et al. 2020,
    Eq. 8, in the measure asked for) are those of the integer ensemble. ``relative_variance`` is the variance over the
    baseline's in the stage where that is largest, 1 being the baseline's; ``stages`` lists every stage of a network
    that has several. ``budget_share`` is the cost over the budget: 1.008 is 0.8 % above it. ``label`` names the
    ensemble in a few characters. Where ``uniform`` is false, every stage has its own m and n, which ``stages`` lists;
    ``widths`` and ``multiplicity`` are then the first stage's, and ``gap`` is by how much, relatively, no other choice
    for the stages can be better, of those that were measured where time decides. ``latency_ms`` and ``memory_bytes``
    are those of the search's workload, null where there was none. ``branches`` names the modules of a described network
    that change, for ``collegium.regroup``.
    """

    multiplicity: int
    multiplicity_real: float
    variance: float
    parameters: int
    flops: int
    efficiency: float
    relative_variance: float | None = None
    budget_share: float | None = None
    stages: tuple[StageVariance, ...] = ()
    label: str = ""
    uniform: bool = True
    gap: float | None = None
    latency_ms: float | None = None
    memory_bytes: int | None = None
    branches: tuple[RegroupedBranch, ...] = ()

    @property
    def grouping(self) -> dict[str, Any]:
        """What an architecture has of it beside its baseline: widths and multiplicity, or those of each stage.

        >>> from collegium import build_model, find_ensemble
        >>> baseline = {"family": "resnext", "layout": "cifar", "blocks": [1, 1, 1], "base_width": 32}
        >>> dual = find_ensemble(baseline, space={"stages": "own"}).dual
        >>> model = build_model({"baseline": baseline, **dual.grouping})
        >>> sum(parameter.numel() for parameter in model.parameters()) == dual.parameters
        True
        """
        if self.uniform:
            return {"widths": self.widths, "multiplicity": self.multiplicity}
        return {"stages": [{"widths": each.widths, "multiplicity": each.multiplicity} for each in self.stages]}


def _earlier(name: str, default: Any = ...) -> Any:
    """A field of the dual, which results that were stored earlier have without its prefix."""
    return Field(default=default, validation_alias=AliasChoices(f"dual_{name}", name))


class CurveRow(MemberWidths):
    """One member considered.

    ``variance`` is that of a single member. ``primal_*`` are at the budget's count, ``dual_*`` at the baseline's
    variance; ``*_real`` is before rounding m, the others are the integer ensemble's, and ``primal_variance`` is at the
    real m. ``*_relative_variance`` is the integer ensemble's over the baseline's, in the stage where that is largest;
    ``primal_standard_error`` is the error of the primal's, where whole networks were measured.
    ``objective`` is the primal objective (Eq. 12), in the worst stage, relative to the optimum: 1 at n*. Null where
    that side has no ensemble at this width.
    """

    inverse_fan_in_sum: float
    variance: float
    objective: float | None
    primal_multiplicity: int | None
    primal_multiplicity_real: float | None
    primal_variance: float | None
    primal_parameters: int | None
    dual_multiplicity: int | None = None
    dual_multiplicity_real: float | None = None
    dual_variance: float | None = None
    dual_parameters: int | None = _earlier("parameters", None)
    dual_flops: int | None = _earlier("flops", None)
    dual_efficiency: float | None = _earlier("efficiency", None)
    dual_efficiency_real: float | None = _earlier("efficiency_real", None)
    primal_relative_variance: float | None = None
    primal_budget_share: float | None = None
    dual_relative_variance: float | None = None
    primal_standard_error: float | None = None


class Recommendation(MemberWidths):
    """A hardware-friendly member of the band, with both its ensembles and the reason for the choice.

    Where time was measured it is the fastest ensemble, where memory alone decides that of the evenest widths, and its
    dual null. Its primal is within the tolerance of the answer's variance, and better than the baseline; its dual is
    null where it would not be cheaper than the baseline.
    """

    reason: str
    loss: float = Field(description="relative increase of the objective over the answer's, as built; 0.01 is 1 %")
    primal: SolvedEnsemble | None
    dual: SolvedEnsemble | None


class NearOptimal(Part):
    """Members whose objective with a real m is within ``tolerance`` of the optimum, and the answer's own.

    ``min_width`` and ``max_width`` are of the first free width; ``members`` lists the width vectors. ``recommended`` is
    null where no member as built is within the tolerance and better than the baseline.
    """

    tolerance: float
    min_width: int
    max_width: int
    members: tuple[tuple[int, ...], ...]
    recommended: Recommendation | None = None


class Win(MemberWidths):
    """A member and how often it is the optimum when the estimate is redrawn within its error."""

    frequency: float


class Confidence(Part):
    """How sure n* itself is: ``frequency`` with which it stays the optimum over ``draws`` redrawn estimates.

    ``low`` and ``high`` bound the central ``level`` of the winners' (first) widths. ``within_tolerance`` is how
    often n*'s objective stays within the tolerance of the redrawn optimum. Exact estimates have no error: 1.
    """

    frequency: float
    within_tolerance: float
    low: int
    high: int
    level: float
    draws: int
    wins: tuple[Win, ...]


class CorrelationRow(Part):
    """Both answers of one m × n had the inputs another correlation between neighbouring positions.

    ``widths`` are the primal's and ``dual_widths`` the dual's; the fields of an answer are null where nothing is
    allowed within the limits. ``slope`` is that of ln r on the part of s(n) that varies, at the n* of a real
    multiplicity. Results that were stored earlier have the dual at the primal's widths.
    """

    correlation: float
    widths: tuple[int, ...] | None = Field(min_length=1)
    width: int | None = None
    primal_multiplicity: int | None
    primal_multiplicity_real: float | None
    dual_widths: tuple[int, ...] | None = Field(min_length=1)
    dual_width: int | None = None
    dual_multiplicity: int | None
    dual_multiplicity_real: float | None
    dual_efficiency: float | None = _earlier("efficiency")
    slope: float | None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        complete = {"dual_widths": data.get("widths"), **data}
        for name in ("width", "dual_width"):
            widths = set(complete[f"{name}s"] or ())
            complete.setdefault(name, widths.pop() if len(widths) == 1 else None)
        return complete


def _earlier_agreement(data: object) -> object:
    """Results that were stored earlier have ``agrees`` alone."""
    if isinstance(data, dict) and "agreement" not in data and "agrees" in data:
        return {**data, "agreement": "agree" if data["agrees"] else "disagree"}
    return data


class SpotCheckPoint(MemberWidths):
    """The closed form and a short Monte Carlo estimate of ln r at one member.

    The estimate is null where every sample was zero, its error where the samples do not determine it. ``agreement`` is
    null in results that were stored earlier.
    """

    samples: int
    exact: float
    sampled: float | None
    standard_error: float | None
    standard_errors_apart: float | None
    agreement: Agreement | None = None


class SpotCheck(Part):
    """The Monte Carlo check of the closed form.

    ``agreement`` is ``disagree`` where a point is over four standard errors apart, ``agree`` where every point is
    within them and would have shown a deviation of a tenth, else ``cannot_tell``. ``agrees`` is true for ``agree``
    alone; ``largest`` is the largest distance in standard errors, null where none is known.
    """

    points: tuple[SpotCheckPoint, ...]
    largest: float | None
    agrees: bool
    agreement: Agreement

    _earlier = model_validator(mode="before")(_earlier_agreement)


class MeasuredVariance(MemberWidths):
    """The measured variance of a built ensemble's kernel, and the prediction; null as in ``SpotCheckPoint``."""

    multiplicity: int
    samples: int
    predicted: float
    measured: float | None
    standard_error: float | None
    standard_errors_apart: float | None
    agreement: Agreement | None = None


class Verification(Part):
    """Measurements of the ensembles found; null where a side has none.

    ``agreement`` and ``agrees`` are as in ``SpotCheck``, for a deviation of a quarter.
    """

    primal: MeasuredVariance | None
    dual: MeasuredVariance | None
    agrees: bool
    agreement: Agreement

    _earlier = model_validator(mode="before")(_earlier_agreement)


class SearchResult(Part):
    """The answer to a search.

    ``variance_from`` is the source of the curve's variances: the closed form, a smooth fit through sampled points
    (``smooth``), a given α, or the whole ``network`` of each row, measured at its primal's m by method ``plain`` (a
    row's ``variance`` is then m times that, and its ratio's error ``primal_standard_error``). ``outcome`` is how the
    search ended; ``notes`` are further findings. ``subject`` says what the variances are the variances of. The primal
    costs at most ``1 + budget_tolerance`` times the budget; the tolerance is 0 where the budget was given. ``stages``
    is that of the space; where it is ``own``, the curve and the band are those of one m × n for all stages, whose
    answers are ``tied_primal`` and ``tied_dual``. Where ``measure`` is time or memory, in milliseconds and bytes, the
    curve counts parameters. ``recommended`` is the hardware-friendly ensemble: the fastest that was measured, or that
    of the band. ``costs`` has what ensembles cost in time and memory, where that was asked for. ``gains`` has the
    variance gain of each weight layer of the kernel's module. ``branches`` has the search of each part of a described
    network that has several; the answers are then all parts' together, and curve, band and check the largest part's.
    ``reused`` counts the samples that were not drawn but stored by an earlier search with the same seed; the rest of
    the answer does not depend on it.

    >>> from collegium import SearchResult, find_ensemble
    >>> answer = find_ensemble("resnet50")
    >>> answer.near_optimal.min_width, answer.near_optimal.max_width
    (7, 15)
    >>> SearchResult.model_validate_json(answer.model_dump_json()) == answer
    True
    """

    title: str
    space: Literal["scaled", "vector", "widths"]
    method: Literal["exact", "monte_carlo", "given", "plain"]
    variance_from: Literal["closed_form", "smooth", "sampled", "alpha", "network"]
    measure: CostName
    budget: int | float
    alpha: Alpha
    baseline: BaselineSummary
    primal: SolvedEnsemble | None = None
    dual: SolvedEnsemble | None = None
    curve: tuple[CurveRow, ...]
    near_optimal: NearOptimal | None = None
    confidence: Confidence | None = None
    correlations: tuple[CorrelationRow, ...] = ()
    check: SpotCheck | None = None
    verification: Verification | None = None
    outcome: Outcome
    notes: tuple[Outcome, ...] = ()
    seed: int
    samples: int
    reused: int = 0
    device: str
    versions: dict[str, str]
    seconds: float
    subject: str = ""
    network: NetworkVerification | None = None
    budget_tolerance: float = 0.025
    stages: Literal["tied", "own"] = "tied"
    tied_primal: SolvedEnsemble | None = None
    tied_dual: SolvedEnsemble | None = None
    recommended: SolvedEnsemble | None = None
    costs: CostFront | None = None
    gains: tuple[LayerGain, ...] = ()
    branches: tuple[BranchResult, ...] = ()

    @field_validator("seconds")
    @classmethod
    def _not_negative(cls, seconds: float) -> float:
        return max(0.0, seconds)

    def __str__(self) -> str:
        """What was found, and a row each of the baseline, the primal, the dual and the recommended ensemble."""
        return answer_text(self)


class BranchResult(Part):
    """The search of one part of a network: the branches ``names``, whose members have so many parameters and FLOPs."""

    names: tuple[str, ...]
    parameters: int
    flops: int
    result: SearchResult


SearchResult.model_rebuild()
