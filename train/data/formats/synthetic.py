"""Data made from a seed: the labels of a teacher network, and sequence tasks for encoder–decoder transformers."""

from __future__ import annotations

import math

import numpy as np

from collegium.train.data.dataset import Arrays
from collegium.train.spec.data import SyntheticSpec

END = 1
FIRST_WORD = 2
TEACHER_WIDTH = 32


def load_teacher(spec: SyntheticSpec, seed: int) -> Arrays:
    """Gaussian inputs, labelled by the largest output of a random two-layer ReLU network; half as many for testing."""
    generator = np.random.default_rng([seed, 1])
    count = spec.samples + spec.samples // 2
    x = generator.standard_normal((count, spec.inputs), dtype=np.float32)
    first = generator.standard_normal((spec.inputs, TEACHER_WIDTH), dtype=np.float32) * math.sqrt(2 / spec.inputs)
    second = generator.standard_normal((TEACHER_WIDTH, spec.classes), dtype=np.float32)
    scores = np.maximum(x @ first, 0) @ second
    scores -= scores.mean(0)  # without this a few classes would win nearly always
    y = scores.argmax(1).astype(np.int64)
    n = spec.samples
    summary = {"source": "teacher", "teacher_width": TEACHER_WIDTH}
    return Arrays(x[:n], y[:n], x[n:], y[n:], spec.classes, kind="features", summary=summary)


def load_sequences(spec: SyntheticSpec, seed: int) -> Arrays:
    """Random words in, words out, by ``spec.task``; every sequence ends with the token 1, and none needs padding.

    ``first`` repeats the first word, ``maximum`` names the largest one, ``reverse`` writes the sequence backwards.
    Words are the tokens 2 … vocabulary − 1.
    """
    generator = np.random.default_rng([seed, 2])
    count = spec.samples + spec.samples // 2
    words = generator.integers(FIRST_WORD, spec.vocabulary, (count, spec.length - 1))
    ends = np.full((count, 1), END)
    x = np.concatenate([words, ends], 1)
    if spec.task == "reverse":
        answers = words[:, ::-1]
    elif spec.task == "maximum":
        answers = words.max(1, keepdims=True)
    else:
        answers = words[:, :1]
    y = np.concatenate([answers, ends], 1)
    n = spec.samples
    return Arrays(
        x[:n], y[:n], x[n:], y[n:], 0, kind="tokens", vocabulary=spec.vocabulary,
        summary={"source": "sequences", "task": spec.task},
    )  # fmt: skip
