"""Uniform random numbers on a processor, for any element of any step, from a key and without a sequence.

A word of 32 bits belongs to each pair of numbers. In a chunk of at most CHUNK words, word i = COLUMNS · j + l is

    x_i = b_{s + 17 j + l} + m · a_{r + 29 j + l} · c_{t + 43 j + l}  mod 2^32,

where a, b and c are three circular tables of PERIOD hashed counters (a and c odd), made once in a process, and the
places r, s, t and the odd factor m hash (seed, step, kernel, chunk, pair): 82 bits of key for each chunk and pair. The
two halves of a word are two numbers of 16 bits, U = (half + ½) / 2^16.

It is a keyed hash of the counter whose first rounds are looked up, so that the last is one pass over a chunk that stays
in the cache, where hashing the counter itself takes a dozen. m alone makes the upper half of each word exactly uniform,
and the lower but for its last bit. Two chunks read the same words, shifted, if their r, s and t are equally far apart
and their m agree: a chance of 2^−65. One word or two do not tell the three places and m, hence no other word.

The windows of a chunk's rows of COLUMNS words overlap, so that all of it reads 6,400 to 13,000 entries of each, which
stay in the cache. Two words of a chunk share an entry of one table at most, since the three strides differ.
``tests/train/majority/test_independence.py`` has pairs, triples, sums and repetitions.
"""

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

CHUNK = 1 << 19  # elements, at most: large enough to hide an operator's cost, small enough for the cores' common cache
PERIOD = 1 << 17  # entries of a table
COLUMNS = 1 << 11  # words in a row of a chunk
STRIDES = (17, 29, 43)  # between the windows of rows in b, a and c
_STREAM = 0xD1342543DE82EF95  # between the chunks of one draw
_GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment
_MASK64 = (1 << 64) - 1
_MOST_LENGTHS = 256  # of chunks, whose views are kept
SCALE = 2.0**-16
CENTRE = 0.5 + 2.0**-17  # U of a half that is 0, with its sign


Source = Literal["independent", "table"]
SOURCES: tuple[Source, ...] = ("independent", "table")


@dataclass(frozen=True)
class Draw:
    """One draw of p for a whole kernel: which random numbers, not the numbers themselves.

    ``seed`` and ``step`` are any integers (used modulo 2^64), ``kernel`` numbers the tensor within its model;
    ``source`` is what makes the numbers on a processor: ``"independent"`` (this module) or ``"table"`` (``table``
    beside it, not independent).
    """

    seed: int
    step: int
    kernel: int
    source: Source = "independent"

    @property
    def state(self) -> int:
        """A hash of the key, 64 bits."""
        state: int | None = self.__dict__.get("_state")  # a cached property of functools takes a lock
        if state is None:
            state = 0
            for word in (self.seed, self.step, self.kernel):
                state = hashed((state ^ word & _MASK64) + _GAMMA & _MASK64)
            self.__dict__["_state"] = state
        return state

    def words(self, chunk: int, count: int) -> list[int]:
        """``count`` hashes of the key and the number of a chunk, 64 bits each."""
        state = self.state + chunk * _STREAM
        return [hashed(state + index * _GAMMA & _MASK64) for index in range(1, count + 1)]


def chunk_length(elements: int) -> int:
    """Into chunks of how many elements a tensor of so many is split: alike, but for the last, and CHUNK at most.

    >>> chunk_length(100), chunk_length(CHUNK + 1)
    (100, 264192)
    """
    parts = -(-elements // CHUNK)
    return elements if parts <= 1 else COLUMNS * -(-elements // (parts * COLUMNS))


class Points:
    """The sorted numbers of one chunk: ``block``, ``(count, elements)``, and its rows."""

    def __init__(self, block: Tensor) -> None:
        self.block, self.rows = block, block.unbind()


@dataclass(frozen=True)
class _Memory:
    """Scratch memory of a thread for draws of one size."""

    points: Points
    work: Tensor  # one row more
    words: tuple[Tensor, ...]  # int32, (…, COLUMNS), one for each two rows; the first are where ``work`` is
    exchanges: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]  # int16: two rows, their minimum, their maximum
    sorted: Tensor  # int16, (count, elements)


def sorted_uniforms(
    draw: Draw, chunk: int, count: int, elements: int, dtype: torch.dtype, into: Points | None = None
) -> Points:
    """``count`` rows of ``elements`` independent numbers in (0, 1) for chunk ``chunk``, descending at every element.

    They are ``into``, if it is given, of that size and type; otherwise scratch memory, which the thread's next draw
    takes.
    """
    found = _memory(count, elements, dtype)
    shift, first, second = tables()
    one, two, three = STRIDES
    keys = draw.words(chunk, 2 * len(found.words))
    for words, place, factor in zip(found.words, keys[::2], keys[1::2], strict=True):
        shape = words.shape
        torch.addcmul(
            shift.as_strided(shape, (one, 1), place % PERIOD),
            first.as_strided(shape, (two, 1), (place >> 20) % PERIOD),
            second.as_strided(shape, (three, 1), (place >> 40) % PERIOD),
            value=signed32(factor | 1),
            out=words,
        )
    for one_row, other, least, greatest in found.exchanges:
        torch.minimum(one_row, other, out=least)
        torch.maximum(one_row, other, out=greatest)
    points = into or found.points
    points.block.copy_(found.sorted)
    torch.add(_centre(dtype), points.block, alpha=SCALE, out=points.block)
    return points


def spare_row(points: Points) -> Tensor:
    """Scratch memory for a row more than ``points`` has, until the thread's next draw."""
    count, elements = points.block.shape
    return _memory(count, elements, points.block.dtype).work


def comparisons(count: int) -> tuple[tuple[int, int], ...]:
    """Pairs of rows that are compared to sort ``count`` rows: Batcher's merge exchange (Knuth 5.2.2, Algorithm M)."""
    found: list[tuple[int, int]] = []
    top = step = 1 << (count - 1).bit_length() - 1 if count > 1 else 0
    while step > 0:
        jump, remainder, distance = top, 0, step
        while True:
            found += [(i, i + distance) for i in range(count - distance) if i & step == remainder]
            if jump == step:
                break
            distance, jump, remainder = jump - step, jump >> 1, step
        step >>= 1
    return tuple(found)


_local = threading.local()


def _memory(count: int, elements: int, dtype: torch.dtype) -> _Memory:
    """Views of the thread's scratch memory, made once for each length of chunk."""
    kept: dict[Any, _Memory] = _local.__dict__.setdefault("memories", {})
    found = kept.get((count, elements, dtype))
    if found is None:
        if len(kept) >= _MOST_LENGTHS:
            kept.clear()
        found = kept[count, elements, dtype] = _laid_out(count, elements, dtype)
    return found


def _laid_out(count: int, elements: int, dtype: torch.dtype) -> _Memory:
    needed = [elements] * (count // 2) + [(elements + 1) // 2] * (count % 2)
    rows = -(-elements // COLUMNS)
    work = scratch("work", rows * COLUMNS, dtype)
    words = [scratch(("words", pair), rows * COLUMNS, torch.int32) for pair in range(1, len(needed))]
    words = [work.view(torch.int32)[: rows * COLUMNS], *words][: len(needed)]
    halves = [half for word in words for half in word.view(torch.int16)[: 2 * elements].view(2, elements)][:count]
    ordered = scratch(("sorted", count), count * elements, torch.int16).view(count, elements)
    return _Memory(
        Points(scratch(("points", count), count * elements, dtype).view(count, elements)),
        work[:elements],
        tuple(word.view(rows, COLUMNS)[: -(-n // COLUMNS)] for word, n in zip(words, needed, strict=True)),
        _exchanges(halves, ordered),
        halves[0].view(1, elements) if count == 1 else ordered,
    )


def _exchanges(halves: list[Tensor], ordered: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]:
    """The comparisons that sort ``halves``; the last of each row writes it into ``ordered``."""
    pairs, found = comparisons(len(halves)), []
    last = {row: number for number, pair in enumerate(pairs) for row in pair}
    spare = scratch("spare", ordered.shape[1], torch.int16)
    for number, (upper, lower) in enumerate(pairs):
        one, other = halves[upper], halves[lower]
        greatest = ordered[upper] if last[upper] == number else one
        least = ordered[lower] if last[lower] == number else spare
        found.append((one, other, least, greatest))
        halves[upper], halves[lower] = greatest, least
        spare = other if least is spare else spare
    return tuple(found)


def scratch(name: Hashable, elements: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread for ``elements`` numbers, the same for the same name: a chunk's, hence never much."""
    kept: dict[Any, Tensor] = _local.__dict__.setdefault("tensors", {})
    found = kept.get((name, dtype))
    if found is None or found.shape[0] < elements:
        with torch.inference_mode(False):  # memory of that mode could not be written outside of it
            found = kept[name, dtype] = torch.empty(elements, dtype=dtype, device="cpu")
        _local.__dict__.pop("memories", None)  # which would keep what this replaces
    return found.narrow(0, 0, elements)


@cache
def _centre(dtype: torch.dtype) -> Tensor:
    return torch.tensor(CENTRE, dtype=dtype, device="cpu")


@cache
def tables() -> tuple[Tensor, Tensor, Tensor]:
    """b, a and c, the start repeated at the end: 1.7 MB."""
    with _disable_current_modes():  # under which they would have no memory, for ever
        tables = [(hashed_counters(stream) >> 32).to(torch.int32) for stream in (102, 101, 103)]
        longest = CHUNK // COLUMNS * max(STRIDES) + COLUMNS
        shift, first, second = (torch.cat((table, table[:longest])) for table in tables)
        return shift, first | 1, second | 1


def hashed_counters(stream: int) -> Tensor:
    """The splitmix64 hash of PERIOD counters, int64; the masks make torch's arithmetic shifts logical ones."""
    counter = torch.arange(1, PERIOD + 1, dtype=torch.int64, device="cpu") + stream * PERIOD
    z = counter * _signed64(_GAMMA)
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed64(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed64(0x94D049BB133111EB)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def hashed(state: int) -> int:
    """The finalizer of splitmix64."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return state ^ (state >> 31)


def _signed64(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def signed32(word: int) -> int:
    """The lower 32 bits of ``word`` as a signed number, as int32 tensors take it."""
    word &= (1 << 32) - 1
    return word - (1 << 32) if word >> 31 else word
