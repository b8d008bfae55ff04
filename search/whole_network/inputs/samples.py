"""A batch of samples, each of one tensor or of several: numbers, integers such as those of tokens, and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collegium.search.errors import InvalidSpec
from collegium.search.kernel.inputs import DEFAULT_CORRELATION
from collegium.search.networks.graph.content import UNBOUNDED, Input
from collegium.search.whole_network.inputs.images import gaussian_fields

#: Most numbers of one tensor that is drawn.
MOST_NUMBERS = 2**28


@dataclass(frozen=True)
class Samples:
    """``arrays`` as a network reads them, in order, along samples in all that are not ``shared``.

    >>> batch = Samples((np.zeros((3, 4)), np.zeros((3, 5), np.int64), np.arange(5)), shared=frozenset({2}))
    >>> batch.count, batch.shapes, batch.at(1).arrays[0].shape
    (3, ((4,), (5,), (5,)), (1, 4))
    """

    arrays: tuple[np.ndarray, ...]
    shared: frozenset[int] = frozenset()

    @classmethod
    def of(cls, batch: np.ndarray | Samples) -> Samples:
        """One array as samples of one tensor."""
        return batch if isinstance(batch, Samples) else cls((batch,))

    @property
    def count(self) -> int:
        """Samples that there are."""
        return len(next(array for place, array in enumerate(self.arrays) if place not in self.shared))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """That of one sample in each array."""
        return tuple(array.shape if i in self.shared else array.shape[1:] for i, array in enumerate(self.arrays))

    def first(self, count: int) -> Samples:
        """The first samples."""
        return self._taken(slice(0, count))

    def at(self, index: int) -> Samples:
        """One sample, as a batch."""
        return self._taken(slice(index, index + 1))

    def _taken(self, places: slice) -> Samples:
        taken = (array if i in self.shared else array[places] for i, array in enumerate(self.arrays))
        return Samples(tuple(taken), self.shared)


def drawn_samples(inputs: Sequence[Input], count: int, correlation: float | None, seed: int) -> Samples:
    """Random samples of what a network reads.

    Numbers are fields of the ``correlation`` between neighbours, or independent where they have more than two extents.
    Integers are uniform from 0 to ``below`` - 1, as the tokens of a vocabulary; where no table is read by them, and of
    booleans, all are 1, as in a mask that leaves nothing out. Raises ``InvalidSpec`` for too many numbers.

    >>> tokens = Input(name="ids", shape=(6,), content="integer", below=11)
    >>> mask = Input(name="mask", shape=(6,), content="boolean")
    >>> ids, kept = drawn_samples([tokens, mask], count=2, correlation=None, seed=0).arrays
    >>> ids.shape, int(ids.max()) < 11, bool(kept.all())
    ((2, 6), True, True)
    """
    return Samples(tuple(_drawn(each, place, count, correlation, seed) for place, each in enumerate(inputs)))


def _drawn(each: Input, place: int, count: int, correlation: float | None, seed: int) -> np.ndarray:
    if count * int(np.prod(each.shape, dtype=object)) > MOST_NUMBERS:
        raise InvalidSpec(("network", "images"), f"{count} samples of {each.shape} are too many numbers: lower it")
    shape = (count, *each.shape)
    if each.content == "boolean":
        return np.ones(shape, bool)
    generator = np.random.default_rng([seed, count, *each.shape, *([place] if place else [])])
    if each.below is not None:
        return np.ones(shape, np.int64) if each.below >= UNBOUNDED else generator.integers(0, each.below, shape)
    if len(each.shape) > 3:
        return generator.standard_normal(shape).astype(np.float32)
    channels, height, width = (*each.shape, 1, 1, 1)[0:3]
    own = DEFAULT_CORRELATION if correlation is None else correlation
    drawn_by = seed if place == 0 else int(generator.integers(0, 2**31))
    return gaussian_fields(count, (channels, height, width), own, drawn_by).reshape(shape)


def text_of_inputs(inputs: Sequence[Input]) -> str:
    """Shapes and kinds of what is read, such as ``ids of 6 (integers from 0 to 10)``; of one tensor its shape alone."""
    if len(inputs) == 1 and inputs[0].content == "number":
        return "×".join(map(str, inputs[0].shape))
    return ", ".join(f"{each.name} of {'×'.join(map(str, each.shape)) or 'one number'}{_kind(each)}" for each in inputs)


def _kind(each: Input) -> str:
    if each.content == "boolean":
        return " (all true)"
    if each.below is None:
        return ""
    return " (all 1)" if each.below >= UNBOUNDED else f" (integers from 0 to {each.below - 1})"
