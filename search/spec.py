"""The specification of a search: the baseline, how its kernel is estimated, and the space of ensembles.

Every model is frozen, strict and closed: an unknown field, a boolean or string where a number belongs, NaN and
Infinity are refused with the path of the field. Nothing here allocates memory in proportion to the sizes named.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

MAX_WIDTH = 1_000_000
MAX_LAYERS = 64


def _end_arrays_early(schema: Any) -> None:
    if isinstance(schema, list | tuple):
        for part in schema:
            _end_arrays_early(part)
    elif isinstance(schema, dict):
        if schema.get("type") in ("tuple", "list"):
            schema["fail_fast"] = True
        for key, part in schema.items():
            if key not in ("default", "metadata", "serialization"):
                _end_arrays_early(part)


class Strict(BaseModel):
    """A closed, immutable, strictly typed model.

    Validation of an array ends at its first wrong item: a long one would else become as many errors as it has items.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _end_arrays_early(schema)
        return schema


Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=MAX_LAYERS, strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class PresetBaseline(Strict):
    """A named architecture; ``GET /v1/presets`` lists them."""

    preset: Annotated[str, Field(min_length=1, max_length=64)]


class MlpBaseline(Strict):
    """A fully connected ReLU network ``inputs → hidden… → outputs``."""

    family: Literal["mlp"]
    inputs: Width
    hidden: Widths
    outputs: Width = 1
    bias: bool = False


class ResNextBaseline(Strict):
    """A whole ResNet or ResNeXt: stem, stages, shortcuts, norms and head.

    ``cardinality`` × ``base_width``d in the notation of ResNeXt; the group width doubles with every stage.
    ``blocks`` gives the residual blocks of each stage; ``depth`` is short for the usual choice.
    """

    family: Literal["resnext"]
    layout: Literal["cifar", "imagenet", "imagenet32", "imagenet64"]
    depth: Annotated[int, Field(ge=1, le=2000)] | None = None
    blocks: (
        Annotated[tuple[Annotated[int, Field(ge=1, le=500)], ...], Field(min_length=1, max_length=8, strict=False)]
        | None
    ) = None
    block: Literal["bottleneck", "basic"] = "bottleneck"
    cardinality: Annotated[int, Field(ge=1, le=65536)] = 1
    base_width: Annotated[int, Field(ge=1, le=65536)] = 64
    classes: Width | None = None


class InputShape(Strict):
    """Shape of a block's input feature map."""

    channels: Width
    height: Annotated[int, Field(ge=1, le=4096)] = 1
    width: Annotated[int, Field(ge=1, le=4096)] = 1


class ConvLayer(Strict):
    """A convolution; ``out`` is a fixed number of channels or a free width's name. Padding: (kernel − 1) / 2."""

    type: Literal["conv"]
    out: Width | Name
    kernel: Annotated[int, Field(ge=1, le=63)] = 1
    stride: Annotated[int, Field(ge=1, le=63)] = 1
    padding: Annotated[int, Field(ge=0, le=63)] | None = None
    groups: Width = 1


class DenseLayer(Strict):
    """A dense layer over the flattened feature map."""

    type: Literal["dense"]
    out: Width | Name


class ReluLayer(Strict):
    """A rectifier."""

    type: Literal["relu"]


class LinearLayer(Strict):
    """The identity activation."""

    type: Literal["linear"]


BlockLayer = Annotated[ConvLayer | DenseLayer | ReluLayer | LinearLayer, Field(discriminator="type")]


class BlockBaseline(Strict):
    """A chain of layers; ``widths`` gives every free width its baseline value. Equal names are tied."""

    family: Literal["block"]
    input: InputShape
    layers: Annotated[tuple[BlockLayer, ...], Field(min_length=1, max_length=2 * MAX_LAYERS, strict=False)]
    widths: Annotated[dict[Name, Width], Field(min_length=1, max_length=MAX_LAYERS)]


def _family(value: Any) -> str | None:
    if isinstance(value, dict):
        return "preset" if "preset" in value else value.get("family")
    return "preset" if isinstance(value, PresetBaseline) else getattr(value, "family", None)


Baseline = Annotated[
    Annotated[PresetBaseline, Tag("preset")]
    | Annotated[MlpBaseline, Tag("mlp")]
    | Annotated[ResNextBaseline, Tag("resnext")]
    | Annotated[BlockBaseline, Tag("block")],
    Discriminator(
        _family,
        custom_error_type="unknown_family",
        custom_error_message="give {'preset': name}, or 'family' as one of 'mlp', 'resnext', 'block'",
    ),
]


class FitWindowSpec(Strict):
    """Widths that take part in the α fit."""

    min_width: Width = 1
    max_width: Width | None = None


class EstimatorSpec(Strict):
    """How the moments of the kernel are found.

    ``auto`` uses the closed form where there is one, with a short Monte Carlo check, and Monte Carlo elsewhere.
    ``relative_error`` is the asked relative standard error of ln r; ``samples`` fixes the number of samples instead.
    """

    method: Literal["auto", "exact", "monte_carlo", "given"] = "auto"
    alpha: Annotated[float, Field(gt=0, le=1000)] | None = None
    relative_error: Annotated[float, Field(ge=1e-4, le=0.5)] = 0.01
    samples: Annotated[int, Field(ge=100, le=100_000_000)] | None = None
    entry: Literal["unit", "pooled"] = "unit"
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    window: FitWindowSpec | None = None

    @model_validator(mode="after")
    def _alpha_goes_with_given(self) -> EstimatorSpec:
        if (self.method == "given") != (self.alpha is not None):
            raise ValueError("alpha is required by method 'given', and allowed with it alone")
        return self


class PairSpec(Strict):
    """Two inputs x, x' of equal norm for an off-diagonal entry K(x, x'), by the cosine of the angle between them."""

    cosine: Annotated[float, Field(ge=-1, le=1)]


Row = Annotated[
    tuple[Annotated[float, Field(ge=-1e12, le=1e12)], ...], Field(min_length=1, max_length=1024, strict=False)
]


class InputsSpec(Strict):
    """The inputs at which the kernel is evaluated; at most one of ``correlation``, ``gram`` and ``data``.

    ``correlation`` c sets the Gram matrix of a receptive field to S_pq = 2·c^distance(p, q). ``gram`` gives it whole,
    P × P over the receptive field's positions. ``data`` names a data set, whose mean patch Gram after the stem is used.
    """

    correlation: Annotated[float, Field(ge=0, le=1)] | None = None
    gram: Annotated[tuple[Row, ...], Field(min_length=1, max_length=1024, strict=False)] | None = None
    data: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")] | None = None
    pair: PairSpec | None = None

    @model_validator(mode="after")
    def _one_source(self) -> InputsSpec:
        if sum(value is not None for value in (self.correlation, self.gram, self.data)) > 1:
            raise ValueError("give at most one of 'correlation', 'gram' and 'data'")
        return self


class SpaceSpec(Strict):
    """Which widths are considered.

    ``scaled`` ties all free widths by one ratio, as the paper does; ``vector`` lets each vary on its own;
    ``widths`` lists exactly the members to evaluate, as tied widths or as whole width vectors.
    """

    mode: Literal["scaled", "vector"] = "scaled"
    widths: Annotated[tuple[Width | Widths, ...], Field(min_length=1, max_length=4096, strict=False)] | None = None
    min_width: Width = 1
    max_width: Width | None = None
    multiple_of: Annotated[int, Field(ge=1, le=4096)] = 1
    max_multiplicity: Width | None = None

    @model_validator(mode="after")
    def _ordered(self) -> SpaceSpec:
        if self.max_width is not None and self.max_width < self.min_width:
            raise ValueError("max_width must be at least min_width")
        return self


class SearchSpec(Strict):
    """A search: everything that determines its result.

    >>> from collegium import SearchSpec, find_ensemble
    >>> spec = SearchSpec.model_validate({"baseline": {"preset": "mlp-digits-6x100"}, "efficiency": "flops"})
    >>> find_ensemble(spec).measure
    'flops'
    """

    baseline: Baseline
    efficiency: Literal["parameters", "flops"] = "parameters"
    estimator: EstimatorSpec = EstimatorSpec()
    inputs: InputsSpec = InputsSpec()
    space: SpaceSpec = SpaceSpec()
    tolerance: Annotated[float, Field(gt=0, le=1)] = 0.025
    budget: Annotated[int, Field(ge=1, le=10**15)] | None = None
    verify: bool = False
