"""The specification of a search: the baseline, how its kernel is estimated, and the space of ensembles.

Every model is frozen, strict and closed: an unknown field, a boolean or string where a number belongs, NaN and
Infinity are refused with the path of the field. Nothing here allocates memory in proportion to the sizes named.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from collegium.search.fields import Strict, Width, Widths, wrong_fields
from collegium.search.latency.limits import CostName
from collegium.search.latency.workload import Workload
from collegium.search.networks.families.network_layers import Extents
from collegium.search.networks.family import FamilyBaseline, usable_families
from collegium.search.networks.network import Measure
from collegium.search.whole_network.spec import NetworkKernelSpec


class PresetBaseline(Strict):
    """A named architecture; ``GET /v1/presets`` lists them.

    ``input`` is the shape of a sample, such as ``(3, 32, 32)``, in place of the one that a described network has.
    """

    preset: Annotated[str, Field(min_length=1, max_length=64)]
    input: Extents | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler):  # typed, it would hide the schema
        # specifications that were stored before there was an input are the same as those that have none
        return {key: value for key, value in serialize(self).items() if value is not None}


def _tag(value: Any) -> str | None:
    if isinstance(value, dict):
        tag = "preset" if "preset" in value else value.get("family")
        return tag if isinstance(tag, str) else None
    if isinstance(value, FamilyBaseline):
        return value.family_name()
    return "preset" if isinstance(value, PresetBaseline) else None


def _baseline() -> Any:
    """A preset's name, or a baseline of any family that can be used; one that cannot is named with the reason."""
    usable, broken = usable_families()
    message = f"give {{'preset': name}}, or 'family' as one of {', '.join(map(repr, usable))}"
    reasons = "".join(f"; {reason}" for reason in broken.values())
    models = [(name, family.baseline) for name, family in usable.items()]
    tagged = [Annotated[model, Tag(name)] for name, model in [("preset", PresetBaseline), *models]]
    discriminator = Discriminator(_tag, custom_error_type="unknown_family", custom_error_message=message + reasons)
    return Annotated[reduce(or_, tagged), discriminator]


if TYPE_CHECKING:
    Baseline = PresetBaseline | FamilyBaseline
else:
    Baseline = _baseline()


class FitWindowSpec(Strict):
    """Widths that take part in the α fit."""

    min_width: Width = 1
    max_width: Width | None = None


class EstimatorSpec(Strict):
    """How the moments of the kernel are found.

    ``auto`` uses the closed form where there is one, with a short Monte Carlo check, and Monte Carlo elsewhere.
    ``plain`` measures a module that is at hand as a whole network, as ``network`` of the specification says; it is for
    ``collegium.find_ensemble(baseline, model=model)`` alone.
    ``relative_error`` is the asked relative standard error of ln r; ``samples`` fixes the number of samples instead.
    ``reuse`` takes up samples that an earlier search stored, and stores these; the answer is the same without.
    """

    method: Literal["auto", "exact", "monte_carlo", "given", "plain"] = "auto"
    alpha: Annotated[float, Field(gt=0, le=1000)] | None = None
    relative_error: Annotated[float, Field(ge=1e-4, le=0.5)] = 0.01
    samples: Annotated[int, Field(ge=100, le=100_000_000)] | None = None
    entry: Literal["unit", "pooled"] = "unit"
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    reuse: bool = True
    window: FitWindowSpec | None = None

    @model_validator(mode="after")
    def _alpha_goes_with_given(self) -> EstimatorSpec:
        if (self.method == "given") != (self.alpha is not None):
            message = "alpha is required by method 'given', and allowed with it alone"
            raise wrong_fields({("alpha",): message}, missing=self.alpha is None)
        return self


class PairSpec(Strict):
    """Two inputs x, x' of equal norm for an off-diagonal entry K(x, x'), by the cosine of the angle between them."""

    cosine: Annotated[float, Field(ge=-1, le=1)]


Entry = Annotated[float, Field(ge=-1e12, le=1e12)]
Row = Annotated[tuple[Entry, ...], Field(min_length=1, max_length=1024, strict=False)]
Matrix = Annotated[tuple[Row, ...], Field(min_length=1, max_length=1024, strict=False)]
#: A matrix for each group holds no more numbers altogether than a single one.
GroupRow = Annotated[tuple[Entry, ...], Field(min_length=1, max_length=64, strict=False)]
GroupMatrix = Annotated[tuple[GroupRow, ...], Field(min_length=1, max_length=64, strict=False)]
Matrices = Annotated[tuple[GroupMatrix, ...], Field(min_length=1, max_length=256, strict=False)]


def _nesting(value: Any) -> str:
    """Whether ``value`` is one matrix, or a sequence of them; what is neither is judged as a matrix."""
    for _ in range(2):
        value = value[0] if isinstance(value, list | tuple) and value else None
    return "matrices" if isinstance(value, list | tuple) else "matrix"


class InputsSpec(Strict):
    """The inputs at which the kernel is evaluated; at most one of ``correlation``, ``gram`` and ``data``.

    ``correlation`` c sets the Gram matrix of a receptive field to S_pq = 2·c^distance(p, q). ``gram`` gives it whole,
    P × P over the receptive field's positions, or groups × P × P, one for each group of a grouped first layer; its
    scale, 2 · mean square, matters where the baseline has biases. ``data`` names a data set, whose mean patch Gram
    after the stem is used, of each group's channels where there is no stem.
    """

    correlation: Annotated[float, Field(ge=0, le=1)] | None = None
    gram: (
        Annotated[Annotated[Matrix, Tag("matrix")] | Annotated[Matrices, Tag("matrices")], Discriminator(_nesting)]
        | None
    ) = None
    data: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")] | None = None
    pair: PairSpec | None = None

    @model_validator(mode="after")
    def _one_source(self) -> InputsSpec:
        given = [name for name in ("correlation", "gram", "data") if getattr(self, name) is not None]
        if len(given) > 1:
            raise wrong_fields({(given[-1],): "give at most one of 'correlation', 'gram' and 'data'"})
        return self


class SpaceSpec(Strict):
    """Which widths are considered.

    ``scaled`` ties all free widths by one ratio, as the paper does; ``vector`` lets each vary on its own;
    ``widths`` lists exactly the members to evaluate, as tied widths or as whole width vectors. ``stages: "own"`` gives
    every stage of a residual network its own m and n; widths of one stage are then in the baseline's ratio.
    """

    mode: Literal["scaled", "vector"] = "scaled"
    widths: Annotated[tuple[Width | Widths, ...], Field(min_length=1, max_length=4096, strict=False)] | None = None
    min_width: Width = 1
    max_width: Width | None = None
    multiple_of: Annotated[int, Field(ge=1, le=4096)] = 1
    max_multiplicity: Width | None = None
    stages: Literal["tied", "own"] = "tied"

    @model_validator(mode="after")
    def _ordered(self) -> SpaceSpec:
        if self.max_width is not None and self.max_width < self.min_width:
            raise wrong_fields({("max_width",): f"max_width must be at least min_width, {self.min_width}"})
        if self.stages == "own" and (self.mode == "vector" or self.widths is not None):
            raise wrong_fields({("stages",): "stages 'own' goes with mode 'scaled' and without a list of widths"})
        return self


Count = Annotated[int, Field(ge=1, le=10**15)]


class SearchSpec(Strict):
    """A search: everything that determines its result.

    ``budget`` is what the primal may cost in the measure ``efficiency``; by default the baseline's own cost, which
    rounding m may exceed by 2.5 %. A budget that is given, and ``max_parameters`` and ``max_flops``, which bind the
    primal and the dual alike, are never exceeded.

    ``efficiency`` may also be ``latency`` or ``memory`` under the ``workload``: the primal then spends the baseline's
    measured time or memory, or ``max_latency_ms`` or ``max_memory_bytes``, which bind primal and dual alike and are
    never exceeded. A ``workload`` alone has the answers measured beside others.

    ``verify`` measures the answers: true, the module's kernel of each; ``network``, that of the whole networks at
    initialization, as ``network`` says.

    >>> from collegium import SearchSpec, find_ensemble
    >>> spec = SearchSpec.model_validate({"baseline": {"preset": "mlp-digits-6x100"}, "efficiency": "flops"})
    >>> find_ensemble(spec).measure
    'flops'
    """

    baseline: Baseline
    efficiency: CostName = "parameters"
    estimator: EstimatorSpec = EstimatorSpec()
    inputs: InputsSpec = InputsSpec()
    space: SpaceSpec = SpaceSpec()
    tolerance: Annotated[float, Field(gt=0, le=1)] = 0.025
    budget: Count | None = None
    max_parameters: Count | None = None
    max_flops: Count | None = None
    max_latency_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    max_memory_bytes: Count | None = None
    workload: Workload | None = None
    verify: bool | Literal["network"] = False
    network: NetworkKernelSpec = NetworkKernelSpec()

    @property
    def limits(self) -> tuple[tuple[str, Measure, int], ...]:
        """The hard limits beside the budget, as field, measure and most."""
        given: list[tuple[str, Measure, int | None]] = [
            ("max_parameters", "parameters", self.max_parameters),
            ("max_flops", "flops", self.max_flops),
        ]
        return tuple((field, measure, most) for field, measure, most in given if most is not None)

    @property
    def cost_limits(self) -> tuple[tuple[str, CostName, float], ...]:
        """The hard limits in any cost, as field, cost and most."""
        given: list[tuple[str, CostName, float | None]] = [
            ("max_latency_ms", "latency", self.max_latency_ms),
            ("max_memory_bytes", "memory", self.max_memory_bytes),
        ]
        return (*self.limits, *((field, cost, most) for field, cost, most in given if most is not None))

    @property
    def times_networks(self) -> bool:
        """Whether ensembles are timed: where time is limited or to be saved, or a workload is given."""
        return self.efficiency == "latency" or self.max_latency_ms is not None or self.workload is not None

    @property
    def costs_decide(self) -> bool:
        """Whether time or memory decide the answers."""
        return self.efficiency in ("latency", "memory") or not (
            self.max_latency_ms is None and self.max_memory_bytes is None
        )

    @model_validator(mode="after")
    def _budget_is_a_count(self) -> SearchSpec:
        if self.budget is not None and self.efficiency in ("latency", "memory"):
            field = "max_latency_ms" if self.efficiency == "latency" else "max_memory_bytes"
            raise wrong_fields({("budget",): f"a budget counts parameters or FLOPs: give {field} in its place"})
        return self
