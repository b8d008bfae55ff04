"""The architecture that a training names: a search's result, a baseline at given widths, or a transformer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from collegium.search.fields import MAX_LAYERS, Strict, Width, Widths
from collegium.search.spec import Baseline

Multiplicity = Annotated[int, Field(ge=1, le=1_000_000)]
Key = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]


class StageGroupingSpec(Strict):
    """The grouping of one stage: ``multiplicity`` members, and the widths that their layers have in that stage.

    ``width`` is that of the first layer, the others in the baseline's ratios; ``widths`` gives each. Both are the
    stage's own: ResNet-50's members 1×64d are of widths 64, 128, 256 and 512.
    """

    width: Width | None = None
    widths: Widths | None = None
    multiplicity: Multiplicity

    @model_validator(mode="after")
    def _one_width(self) -> StageGroupingSpec:
        if (self.width is None) == (self.widths is None):
            raise ValueError("give either 'width' or 'widths'")
        return self


Stages = Annotated[tuple[StageGroupingSpec, ...], Field(min_length=1, max_length=MAX_LAYERS, strict=False)]


class Grouping(Strict):
    """One point of the curve: ``multiplicity`` members of tied ``width``, or of the width vector ``widths``.

    Or ``stages``, with a grouping for each stage of the network.
    """

    width: Width | None = None
    widths: Widths | None = None
    multiplicity: Multiplicity | None = None
    stages: Stages | None = None

    @model_validator(mode="after")
    def _one_grouping(self) -> Grouping:
        if self.stages is not None:
            _stages_alone(self)
            return self
        if (self.width is None) == (self.widths is None):
            raise ValueError("give either 'width' or 'widths'")
        if self.multiplicity is None:
            raise ValueError("give 'multiplicity', the number of members")
        return self


class BranchGroupingSpec(Strict):
    """The grouping of one branch of a described network: ``multiplicity`` members of ``width``, or of ``widths``.

    ``branch`` is its name, or the path of its first module.
    """

    branch: Annotated[str, Field(min_length=1, max_length=512)]
    width: Width | None = None
    widths: Widths | None = None
    multiplicity: Multiplicity

    @model_validator(mode="after")
    def _one_width(self) -> BranchGroupingSpec:
        if (self.width is None) == (self.widths is None):
            raise ValueError("give either 'width' or 'widths'")
        return self


Branches = Annotated[tuple[BranchGroupingSpec, ...], Field(min_length=1, max_length=1024, strict=False)]


class SearchedArchitecture(Strict):
    """The result of a finished search: its primal or dual optimum, its recommended ensemble, its baseline, or any
    grouping.

    ``tied_primal`` and ``tied_dual`` are those of one m × n, beside answers whose stages are grouped each in its own
    way.
    """

    search: Key
    choice: Literal["primal", "dual", "recommended", "tied_primal", "tied_dual", "baseline"] | Grouping = "primal"


class BaselineArchitecture(Strict):
    """A baseline, as a search takes it, at given widths and multiplicity; without them, the baseline itself.

    ``stages`` groups each stage of the network in its own way, in their place, and ``branches`` branches of a described
    network, the others as they are. ``origin`` is the search whose result this is, where it was taken from one.
    """

    baseline: Baseline
    width: Width | None = None
    widths: Widths | None = None
    multiplicity: Multiplicity | None = None
    stages: Stages | None = None
    branches: Branches | None = None
    origin: SearchedArchitecture | None = None

    @model_validator(mode="after")
    def _one_width(self) -> BaselineArchitecture:
        if self.stages is not None:
            _stages_alone(self)
        others = (self.width, self.widths, self.multiplicity, self.stages)
        if self.branches is not None and others != (None, None, None, None):
            raise ValueError("'branches' has the widths and the multiplicity of every branch: leave out the others")
        if self.width is not None and self.widths is not None:
            raise ValueError("give at most one of 'width' and 'widths'")
        return self


def _stages_alone(given: Grouping | BaselineArchitecture) -> None:
    if (given.width, given.widths, given.multiplicity) != (None, None, None):
        raise ValueError("'stages' has the widths and the multiplicity of every stage: leave out those of the network")


ConfigValue = Annotated[int, Field(ge=-1, le=1_000_000)] | Annotated[float, Field(ge=-1e6, le=1e6)] | bool | None
ConfigText = Annotated[str, Field(max_length=64)]


class TransformerArchitecture(Strict):
    """A transformer of the ``transformers`` library: a model type with its configuration, or a local pretrained folder.

    ``pretrained`` names a folder inside the data folder; nothing is fetched from a network. ``config`` overrides
    fields of the model type's configuration (``d_model``, ``num_layers``, ``vocab_size``, …). ``head`` is a decoder
    that generates a sequence, or a classifier; by default the model type's own.
    """

    transformer: Literal["t5", "bart", "bert", "roberta", "distilbert", "electra"]
    config: Annotated[dict[Annotated[str, Field(max_length=64)], ConfigValue | ConfigText], Field(max_length=64)] = (
        Field(default_factory=dict)
    )
    pretrained: Key | None = None
    head: Literal["sequence", "classification"] | None = None

    @property
    def is_decoder(self) -> bool:
        """Whether the model type has a decoder as well as an encoder."""
        return self.transformer in ("t5", "bart")


def _architecture(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, Strict) else ()
    return next((key for key in ("search", "baseline", "transformer") if key in keys), None)


Architecture = Annotated[
    Annotated[SearchedArchitecture, Tag("search")]
    | Annotated[BaselineArchitecture, Tag("baseline")]
    | Annotated[TransformerArchitecture, Tag("transformer")],
    Discriminator(
        _architecture,
        custom_error_type="unknown_architecture",
        custom_error_message="give one of 'search' (a job's id), 'baseline' or 'transformer'",
    ),
]
