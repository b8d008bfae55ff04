"""One attention block, whose heads are the members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.family import Family, FamilyBaseline
from collegium.search.networks.network import Measure, Network, StageGrouping

#: Largest heads · width, most tokens, and most of both together: what one sample holds.
LARGEST_WIDTH, MOST_TOKENS, MOST_NUMBERS = 65_536, 512, 2**21

HeadWidth = Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]


class AttentionBaseline(FamilyBaseline):
    """A block of ``heads`` heads of ``width`` over ``tokens`` tokens, each two of which have ``correlation``.

    Its embedding has heads · width numbers, and so have its queries, keys, values and outputs, whatever the heads are:
    any division of that width costs the same. ``min_width`` is the narrowest head that is considered. There is no
    default for it: the variance of the kernel alone would always ask for narrower heads.
    """

    family: Literal["attention"]
    heads: HeadWidth
    width: HeadWidth
    min_width: Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]
    tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 16
    correlation: Annotated[float, Field(ge=0, le=1)] = 0.0

    @field_validator("width")
    @classmethod
    def _not_too_wide(cls, width: int, info: ValidationInfo) -> int:
        heads = info.data.get("heads", 1)
        if heads * width > LARGEST_WIDTH:
            raise ValueError(f"heads · width is {heads * width}; the most is {LARGEST_WIDTH}")
        return width

    @field_validator("min_width")
    @classmethod
    def _some_head_is_as_wide(cls, min_width: int, info: ValidationInfo) -> int:
        if {"heads", "width"} <= info.data.keys() and min_width > (most := info.data["heads"] * info.data["width"]):
            raise ValueError(f"no head is wider than heads · width, {most}")
        return min_width

    @field_validator("tokens")
    @classmethod
    def _sample_is_small(cls, tokens: int, info: ValidationInfo) -> int:
        embedding = info.data.get("heads", 1) * info.data.get("width", 1)
        if embedding * tokens > MOST_NUMBERS:
            raise ValueError(f"heads · width · tokens is {embedding * tokens}; the most that is sampled {MOST_NUMBERS}")
        return tokens


@dataclass(frozen=True)
class AttentionNetwork(Network):
    """Heads side by side; its chain names their width and nothing more, since a head is no chain."""

    block: AttentionBaseline = field(kw_only=True)

    @property
    def not_built(self) -> str:
        """An attention block is no network."""
        return "an attention block is searched alone: train the transformer that it is of"

    @property
    def embedding(self) -> int:
        """Numbers of one token."""
        return self.block.heads * self.block.width

    @property
    def subject(self) -> str:
        """One output at one token."""
        return "the kernel of one output of an attention block at one token, at initialization, not of the network"

    @property
    def counted_layers(self) -> range:
        """The layer that reads a head's values: 1 / width."""
        return range(1, 2)

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """A head's queries, keys, values and outputs; FLOPs also of its products over the tokens."""
        (width,) = widths
        weights = 4 * width * self.embedding
        if measure == "parameters":
            return 0, weights
        tokens = self.block.tokens
        return 0, tokens * weights + 2 * tokens**2 * width

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        """None: a block is no network. Raises ``InvalidSpec``."""
        raise InvalidSpec(("baseline",), "an attention block has no module here: it is searched alone")

    def arguments_of(self, stages: Sequence[StageGrouping]) -> dict[str, Any]:
        """None, as of one m × n. Raises ``InvalidSpec``."""
        return self.arguments(self.baseline, self.multiplicity)

    def repeated_channels(self, shape: tuple[int, ...]) -> int | None:
        """Raises ``SampleMismatch``: no sample is taken."""
        raise SampleMismatch("cannot be read by an attention block", "train the transformer that it is of")

    def title_at(self, widths: Sequence[int], multiplicity: int) -> str:
        """Such as ``attention, 12 heads of 64``."""
        return _title(widths[0], multiplicity)


def _lower(baseline: AttentionBaseline) -> AttentionNetwork:
    embedding = baseline.heads * baseline.width
    layers = WeightLayer("dense", Free(0), "linear"), WeightLayer("dense", embedding, "linear")
    chain, own = Chain(embedding, 1, 1, layers, ("d",)), (baseline.width,)
    return AttentionNetwork(_title(baseline.width, baseline.heads), chain, own, baseline.heads, block=baseline)


def _title(width: int, heads: int) -> str:
    return f"attention, {heads} head{'' if heads == 1 else 's'} of {width}"


ATTENTION = Family(
    summary="an attention block: the variance over the width of its heads, at the same parameters",
    baseline=AttentionBaseline,
    lower=_lower,
    module="",
)
