"""The data that a training names, and what is done to it before training. Nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from collegium.search.spec import Strict
from collegium.train.spec.architecture import Key
from collegium.train.spec.recipes import Fraction

Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]


class SyntheticSpec(Strict):
    """Sizes of the ``synthetic`` teacher data and of the ``synthetic-text`` sequence task."""

    samples: Annotated[int, Field(ge=16, le=1_000_000)] = 2000
    inputs: Annotated[int, Field(ge=1, le=4096)] = 16
    classes: Annotated[int, Field(ge=2, le=1000)] = 10
    length: Annotated[int, Field(ge=2, le=512)] = 12
    task: Literal["first", "maximum", "reverse"] = "maximum"
    vocabulary: Annotated[int, Field(ge=8, le=32_000)] = 32


class TextSpec(Strict):
    """Columns of a labelled text file and the lengths, in tokens, to which texts are cut.

    ``labels`` says what the target column is: a text to be written, or the name of a class. ``tokenizer`` names a
    pretrained folder inside the data folder; without it, tokens are bytes.
    """

    inputs: Annotated[tuple[Key, ...], Field(min_length=1, max_length=2, strict=False)] | None = None
    target: Key | None = None
    input_length: Annotated[int, Field(ge=2, le=4096)] = 128
    target_length: Annotated[int, Field(ge=2, le=4096)] = 16
    labels: Literal["sequence", "classes"] = "sequence"
    tokenizer: Key | None = None


class DataSpec(Strict):
    """A data set, by a published name or by the id of an uploaded one, and what is done to it before training.

    ``validation`` is the fraction of the training samples that is held out. ``label_noise`` is the fraction of the
    remaining training labels that is replaced by labels drawn uniformly from the other classes; validation and test
    labels stay clean. ``limit`` keeps that many training and test samples. All choices follow from ``seed`` alone, so
    that trainings with different seeds share one split.
    """

    name: Key
    validation: Fraction = 0.0
    label_noise: Fraction = 0.0
    limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    seed: Seed = 0
    synthetic: SyntheticSpec = SyntheticSpec()
    text: TextSpec = TextSpec()


def by_name(value: Any) -> Any:
    """A bare name as an object with that name; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value
