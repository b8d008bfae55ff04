"""Attention, whose heads are members of an ensemble: a block as a baseline, and the blocks of a described network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from collegium.counted import counted
from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.fields import Strict
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.family import Family, FamilyBaseline
from collegium.search.networks.network import Measure, Network, StageGrouping

#: Largest heads · width, most tokens, and most of both together: what one sample holds.
LARGEST_WIDTH, MOST_TOKENS, MOST_NUMBERS = 65_536, 512, 2**21

HeadWidth = Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]
Tokens = Annotated[int, Field(ge=1, le=10**7)]
ModuleName = Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]


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


class AttentionBlock(Strict):
    """A block that occurs ``count`` times: ``heads`` heads of ``width`` numbers, over ``tokens`` tokens.

    ``keys`` are the tokens that are attended to, ``key_heads`` the heads of keys and values, ``value_width`` the
    numbers of a head's values, all as of the queries where null. ``paths`` names the module of each occurrence.

    >>> block = AttentionBlock(heads=12, width=64, tokens=197)
    >>> block.as_baseline(min_width=16)["min_width"], block.products
    (16, 59610624)
    """

    count: Annotated[int, Field(ge=1, le=10**6)] = 1
    heads: HeadWidth
    width: HeadWidth
    tokens: Tokens
    keys: Tokens | None = None
    key_heads: HeadWidth | None = None
    value_width: HeadWidth | None = None
    paths: Annotated[tuple[ModuleName, ...], Field(max_length=2048, strict=False)] = ()

    @field_validator("key_heads")
    @classmethod
    def _heads_share_keys(cls, key_heads: int | None, info: ValidationInfo) -> int | None:
        if key_heads is not None and info.data.get("heads", key_heads) % key_heads:
            raise ValueError(f"must divide the {info.data['heads']} heads: each reads the keys of one")
        return key_heads

    @field_validator("paths")
    @classmethod
    def _paths_fit(cls, paths: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if paths and len(paths) != info.data.get("count", len(paths)):
            raise ValueError(f"as many modules are expected here as 'count' says, {info.data['count']}")
        return paths

    @property
    def products(self) -> int:
        """Multiply–accumulates of one occurrence beside its weights: queries with keys, and weights with values.

        Of attention within windows, those of one window.
        """
        return self.heads * self.tokens * (self.keys or self.tokens) * (self.width + (self.value_width or self.width))

    @property
    def why_not(self) -> str | None:
        """Why the curve over the width of heads is not of this block; None where it is."""
        if self.key_heads not in (None, self.heads):
            return f"its {self.heads} heads share the keys and values of {self.key_heads}, and are no members"
        if self.keys not in (None, self.tokens):
            return "it attends to other tokens than its own"
        if self.value_width not in (None, self.width):
            return "its values are not as wide as its queries"
        if self.heads * self.width > LARGEST_WIDTH:
            return f"the curve is of at most {LARGEST_WIDTH} numbers for a token"
        return None

    @property
    def curve_tokens(self) -> int:
        """Tokens over which the curve is sampled: the block's own, as many as one sample may hold."""
        return max(1, min(self.tokens, MOST_TOKENS, MOST_NUMBERS // (self.heads * self.width)))

    def as_baseline(self, min_width: int, correlation: float = 0.0) -> dict[str, Any]:
        """The block as a baseline of the family ``attention``, whose search gives the curve over its heads' width.

        ``min_width`` is the narrowest head that is considered, ``correlation`` that of each two tokens. Raises
        ``InvalidSpec`` where the curve is not of this block.
        """
        if self.why_not is not None:
            raise InvalidSpec(("attention",), f"{self}: {self.why_not}")
        return {
            "family": "attention",
            "heads": self.heads,
            "width": self.width,
            "min_width": min_width,
            "tokens": self.curve_tokens,
            "correlation": correlation,
        }

    def __str__(self) -> str:
        """Such as ``12 heads of 64 over 197 tokens``."""
        shared = f" that share {self.key_heads} keys and values" if self.key_heads not in (None, self.heads) else ""
        keys = f" and {self.keys} keys" if self.keys not in (None, self.tokens) else ""
        return f"{counted(self.heads, 'head')} of {self.width}{shared} over {counted(self.tokens, 'token')}{keys}"

    @property
    def place(self) -> str:
        """The first occurrence, and how many more there are."""
        first = self.paths[0] if self.paths and self.paths[0] else "attention"
        return f"{first} and {self.count - 1} more" if self.count > 1 else first


def attention_note(blocks: tuple[AttentionBlock, ...]) -> tuple[str, ...]:
    """What to say of blocks that a search leaves as they are, one sentence each, with the call that gives the curve."""
    return tuple(
        f"{block.place}: attention, {block}; "
        + (
            block.why_not
            or "its heads are members already, and collegium.find_ensemble(baseline.attention"
            f"[{index}].as_baseline(min_width={max(1, block.width // 4)})) has the variance over their width, down to "
            "the narrowest that you allow"
        )
        for index, block in enumerate(blocks)
    )


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
    return f"attention, {counted(heads, 'head')} of {width}"


ATTENTION = Family(
    summary="an attention block: the variance over the width of its heads, at the same parameters",
    baseline=AttentionBaseline,
    lower=_lower,
    module="",
)
