"""Data made from a seed: the labels of a teacher network, and sequence tasks for encoder–decoder transformers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from collegium.search.fields import Strict, wrong_fields
from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders, Sample

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

END = 1
FIRST_WORD = 2
TEACHER_WIDTH = 32


class SyntheticSpec(Strict):
    """Sizes of the ``synthetic`` teacher data and of the ``synthetic-text`` sequence task.

    ``labels`` of the sequences are sequences too, or ``classes``: the one word of the tasks ``first`` and ``maximum``.
    """

    samples: Annotated[int, Field(ge=16, le=1_000_000)] = 2000
    inputs: Annotated[int, Field(ge=1, le=4096)] = 16
    classes: Annotated[int, Field(ge=2, le=1000)] = 10
    length: Annotated[int, Field(ge=2, le=512)] = 12
    task: Literal["first", "maximum", "reverse"] = "maximum"
    vocabulary: Annotated[int, Field(ge=8, le=32_000)] = 32
    labels: Literal["sequence", "classes"] = "sequence"

    @model_validator(mode="after")
    def _classes_are_single_words(self) -> SyntheticSpec:
        if self.labels == "classes" and self.task == "reverse":
            raise wrong_fields({("task",): "choose 'first' or 'maximum': labels that are classes are single words"})
        return self


class Teacher(DataFormat):
    """Features labelled by a teacher network."""

    summary = "Gaussian features labelled by a random two-layer network"
    names = ("synthetic",)
    options = SyntheticSpec
    options_name = "synthetic"

    def sample(self, spec: DataSpec) -> Sample:
        """As many features as the options say."""
        chosen: SyntheticSpec = self.options_of(spec)
        return Sample("features", (chosen.inputs,), training=chosen.samples)

    def recipe(self, name: str) -> str:
        """The recipe of the same name."""
        return "synthetic"

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """Drawn from the specification's seed."""
        return load_teacher(self.options_of(spec), spec.seed)


class Sequences(DataFormat):
    """Sequences to be rewritten."""

    summary = "random sequences of tokens to be rewritten by a simple rule"
    names = ("synthetic-text",)
    options = SyntheticSpec
    options_name = "synthetic"

    def sample(self, spec: DataSpec) -> Sample:
        """As many tokens as the options say."""
        chosen: SyntheticSpec = self.options_of(spec)
        rewritten = chosen.labels == "sequence"
        return Sample("tokens", (chosen.length,), chosen.vocabulary, rewritten, training=chosen.samples)

    def recipe(self, name: str) -> str:
        """That of transformers."""
        return "mk-t5"

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """Drawn from the specification's seed."""
        return load_sequences(self.options_of(spec), spec.seed)


def load_teacher(spec: SyntheticSpec, seed: int) -> Arrays:
    """Gaussian inputs, labelled by the largest output of a random two-layer ReLU network; half as many for testing."""
    generator = np.random.default_rng([seed, 1])
    count = spec.samples + spec.samples // 2
    x = generator.standard_normal((count, spec.inputs), dtype=np.float32)
    first = generator.standard_normal((spec.inputs, TEACHER_WIDTH), dtype=np.float32) * math.sqrt(2 / spec.inputs)
    second = generator.standard_normal((TEACHER_WIDTH, spec.classes), dtype=np.float32)
    logits = np.maximum(x @ first, 0) @ second
    logits -= logits.mean(0)  # without this a few classes would win nearly always
    y = logits.argmax(1).astype(np.int64)
    n = spec.samples
    summary = {"source": "teacher", "teacher_width": TEACHER_WIDTH}
    return Arrays(x[:n], y[:n], x[n:], y[n:], spec.classes, kind="features", summary=summary)


def load_sequences(spec: SyntheticSpec, seed: int) -> Arrays:
    """Random words in, words out, by ``spec.task``; every sequence ends with the token 1, and none needs padding.

    ``first`` repeats the first word, ``maximum`` names the largest one, ``reverse`` writes the sequence backwards.
    Words are the tokens 2 … vocabulary − 1. Labels that are ``classes`` are the one word, counted from 0.
    """
    generator = np.random.default_rng([seed, 2])
    count = spec.samples + spec.samples // 2
    words = generator.integers(FIRST_WORD, spec.vocabulary, (count, spec.length - 1))
    ends = np.full((count, 1), END)
    x = np.concatenate([words, ends], 1)
    if spec.task == "reverse":
        targets = words[:, ::-1]
    elif spec.task == "maximum":
        targets = words.max(1, keepdims=True)
    else:
        targets = words[:, :1]
    classes = spec.vocabulary - FIRST_WORD if spec.labels == "classes" else 0
    y = targets[:, 0] - FIRST_WORD if classes else np.concatenate([targets, ends], 1)
    n = spec.samples
    return Arrays(
        x[:n], y[:n], x[n:], y[n:], classes, kind="tokens", vocabulary=spec.vocabulary,
        summary={"source": "sequences", "task": spec.task},
    )  # fmt: skip
