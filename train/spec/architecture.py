"""The architecture that a training names: a search's result, a baseline at given widths, or a transformer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from collegium.search.fields import MAX_LAYERS, Strict, Width, Widths, wrong_fields
from collegium.search.spec import Baseline
from collegium.train.spec.transformer_settings import wrong_settings

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
        _either_width(self)
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
        _either_width(self)
        if self.multiplicity is None:
            raise wrong_fields({("multiplicity",): "give 'multiplicity', the number of members"}, missing=True)
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
        _either_width(self)
        return self


Branches = Annotated[tuple[BranchGroupingSpec, ...], Field(min_length=1, max_length=1024, strict=False)]


Answer = Literal["primal", "dual", "recommended", "tied_primal", "tied_dual", "baseline"]


def _choice(value: Any) -> str:
    return "grouping" if isinstance(value, dict | Grouping) else "answer"


class SearchedArchitecture(Strict):
    """The result of a finished search: its primal or dual optimum, its recommended ensemble, its baseline, or any
    grouping.

    ``tied_primal`` and ``tied_dual`` are those of one m × n, beside answers whose stages are grouped each in its own
    way.
    """

    search: Key
    choice: Annotated[
        Annotated[Answer, Tag("answer")] | Annotated[Grouping, Tag("grouping")], Discriminator(_choice)
    ] = "primal"


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
        if self.branches is not None:
            message = "'branches' has the widths and the multiplicity of every branch: leave out the others"
            _absent(self, ("width", "widths", "multiplicity", "stages"), message)
        if self.width is not None and self.widths is not None:
            raise wrong_fields({("widths",): "give at most one of 'width' and 'widths'"})
        return self


def _either_width(given: Grouping | StageGroupingSpec | BranchGroupingSpec) -> None:
    if (given.width is None) == (given.widths is None):
        field = "width" if given.width is None else "widths"
        raise wrong_fields({(field,): "give either 'width' or 'widths'"}, missing=given.width is None)


def _stages_alone(given: Grouping | BaselineArchitecture) -> None:
    message = "'stages' has the widths and the multiplicity of every stage: leave out those of the network"
    _absent(given, ("width", "widths", "multiplicity"), message)


def _absent(given: Strict, fields: tuple[str, ...], message: str) -> None:
    present = [name for name in fields if getattr(given, name) is not None]
    if present:
        raise wrong_fields({(name,): message for name in present})


ConfigValue = Annotated[int, Field(ge=-1, le=1_000_000)] | Annotated[float, Field(ge=-1e6, le=1e6)] | bool | None
ConfigText = Annotated[str, Field(max_length=64)]


class TransformerArchitecture(Strict):
    """A transformer of the ``transformers`` library: a model type with its configuration, or a local pretrained folder.

    ``pretrained`` names a folder inside the data folder; nothing is fetched from a network. ``config`` overrides
    fields of the model type's configuration (``d_model``, ``num_layers``, ``vocab_size``, …), of which ``num_labels``
    and ``problem_type`` are the data's. ``head`` is a decoder that generates a sequence, or a classifier; by default
    the model type's own.
    """

    transformer: Literal["t5", "bart", "bert", "roberta", "distilbert", "electra"]
    config: Annotated[dict[Annotated[str, Field(max_length=64)], ConfigValue | ConfigText], Field(max_length=64)] = (
        Field(default_factory=dict)
    )
    pretrained: Key | None = None
    head: Literal["sequence", "classification"] | None = None

    @model_validator(mode="after")
    def _settings_mean_something(self) -> TransformerArchitecture:
        wrong = wrong_settings(self.transformer, self.config)
        if wrong:
            raise wrong_fields({("config", name): message for name, message in wrong.items()})
        return self

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
