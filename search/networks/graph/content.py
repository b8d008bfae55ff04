"""What the tensors of a graph hold: numbers, booleans, or integers between two bounds that follow by arithmetic.

The bounds are those by which an index is known to be within what it is read from before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from collegium.search.fields import Strict

#: The most numbers of one constant tensor, and of all constants of a graph.
MAX_CONSTANT, MAX_CONSTANTS = 2**22, 2**24
#: The most numbers of a constant that are written out.
MAX_WRITTEN = 2**15
#: The bound of integers by which no table is read, as of a mask.
UNBOUNDED = 2**31
#: The largest integer, and the largest number: the largest one of 32 bits.
LARGEST_INTEGER, LARGEST = 2**53, 3.4028234663852886e38
Named = Literal["number", "integer", "boolean"]
Axes = Annotated[tuple[Annotated[int, Field(ge=1, le=10**9)], ...], Field(max_length=8, strict=False)]
Entry = (
    Annotated[int, Field(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)]
    | Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
    | Literal["-inf"]
)
Entries = Annotated[tuple[Entry, ...], Field(max_length=MAX_WRITTEN, strict=False)]


@dataclass(frozen=True)
class Content:
    """What a tensor holds; integers are from ``low`` to ``high``."""

    name: Named
    low: int = 0
    high: int = 0


NUMBERS, BOOLEANS = Content("number"), Content("boolean")


class Input(Strict):
    """One tensor that the network reads; ``shape`` is that of one sample. Integers are from 0 to ``below`` - 1."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_]+$")]
    shape: Axes
    content: Named = "number"
    below: Annotated[int, Field(ge=1, le=UNBOUNDED)] | None = None

    @model_validator(mode="after")
    def _integers_are_bounded(self) -> Input:
        if (self.content == "integer") != (self.below is not None):
            raise ValueError("below is expected where content is 'integer', and there alone")
        return self

    @property
    def holds(self) -> Content:
        """What the tensor holds."""
        return Content(self.content, 0, (self.below or 1) - 1)


class ConstantLayer(Strict):
    """A tensor that never changes, such as a mask or the indices of relative positions: read by nodes ``constant``.

    Its numbers are ``values`` in order; or ``start`` + Σ ``steps``[a] · i_a at the place (i_a); or two ``levels``: the
    second where that sum is at least 0, or, with ``classes`` of all axes but the last, the first where the class of the
    last axis' place is that of the last but one. ``saved`` is true where it is a buffer that the network saves.
    """

    kind: Literal["constant"]
    path: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")]
    shape: Axes
    content: Named
    values: Entries | None = None
    start: Entry | None = None
    steps: Annotated[tuple[Entry, ...], Field(max_length=8, strict=False)] | None = None
    levels: Annotated[tuple[Entry, Entry], Field(strict=False)] | None = None
    classes: Annotated[tuple[int, ...], Field(max_length=MAX_WRITTEN, strict=False)] | None = None
    saved: bool = False

    @model_validator(mode="after")
    def _holds_together(self) -> ConstantLayer:
        size = math.prod(self.shape)
        if size > MAX_CONSTANT:
            raise ValueError(f"shape has {size} numbers, and a constant has {MAX_CONSTANT} at most")
        forms = [self.values is not None, self.start is not None, self.classes is not None]
        if sum(forms) != 1 or (self.start is None) != (self.steps is None):
            raise ValueError("either values, or start with steps, or classes with levels are expected")
        if self.values is not None and (len(self.values) != size or self.levels is not None):
            raise ValueError(f"values must have {size} numbers, those of the shape, and no levels")
        if self.steps is not None and len(self.steps) != len(self.shape):
            raise ValueError("steps must have a number for each axis")
        if self.classes is not None:
            square = len(self.shape) > 1 and self.shape[-1] == self.shape[-2]
            if not square or len(self.classes) != math.prod(self.shape[:-1]) or self.levels is None:
                raise ValueError("classes must have a number for each place but the last axis, which is the one before")
        self._check_entries()
        return self

    def _check_entries(self) -> None:
        if self.content == "number":
            return
        # a sum behind levels is compared alone; all else is what the tensor holds
        held = self.levels or self.values or (self.start or 0, *(self.steps or ()))
        if not all(isinstance(each, int) for each in held):
            raise ValueError("integers are expected: values, start, steps and levels must be whole")
        low, high = self._bounds()
        if max(abs(low), abs(high)) > LARGEST_INTEGER or (self.content == "boolean" and (low < 0 or high > 1)):
            raise ValueError("booleans are 0 and 1, and integers below 2^53")

    def _bounds(self) -> tuple[int, int]:
        """Of whole numbers the least and the largest."""
        written: Any = self.levels or self.values
        if written is not None:
            return min(written), max(written)
        steps = [step * (size - 1) for step, size in zip(self.steps or (), self.shape, strict=True)]  # type: ignore[operator]
        low, high = (sum(pick(0, step) for step in steps) for pick in (min, max))  # type: ignore[type-var]
        return int(self.start + low), int(self.start + high)  # type: ignore[operator]

    @property
    def holds(self) -> Content:
        """What the tensor holds."""
        return Content(self.content, *self._bounds()) if self.content == "integer" else Content(self.content)


Given = tuple[Sequence[Content], Sequence[tuple[int, ...]], Mapping[str, Any]]


def of_numbers(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Numbers, made of numbers alone. Raises ``ValueError``."""
    odd = next((each.name for each in contents if each.name != "number"), None)
    if odd is not None:
        raise ValueError(f"it works with numbers, and reads {odd}s")
    return NUMBERS


def unchanged(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """What it reads, which must be of one kind. Raises ``ValueError``."""
    if len({each.name for each in contents}) > 1:
        raise ValueError(f"it reads {' and '.join(f'{each.name}s' for each in contents)} together")
    return Content(contents[0].name, min(each.low for each in contents), max(each.high for each in contents))


def expects(*names: Named, gives: Content = NUMBERS) -> Any:
    """A rule: it reads tensors of these kinds, and as many as there are more are of the last one."""

    def rule(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
        for place, content in enumerate(contents):
            wanted = names[min(place, len(names) - 1)]
            if content.name != wanted:
                raise ValueError(f"it reads {content.name}s where {wanted}s are expected")
        return gives

    return rule


def attended(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Queries, keys and values, and a mask of booleans or of numbers. Raises ``ValueError``."""
    if len(contents) > 3 and contents[3].name == "integer":
        raise ValueError("a mask holds booleans or numbers")
    return of_numbers(contents[:3], shapes, options)


def taken(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Integers that are places of an axis. Raises ``ValueError`` where one may be beyond it."""
    values, index = contents
    if index.name != "integer":
        raise ValueError(f"its indices must be integers, and are {index.name}s")
    rows = shapes[0][options["axis"]]
    if index.low < 0 or index.high >= rows:
        raise ValueError(f"indices from {index.low} to {index.high} are not within an axis of {rows}")
    return values


def compared(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Booleans, from numbers or integers. Raises ``ValueError``."""
    if contents[0].name == "boolean":
        raise ValueError("it compares numbers or integers, and reads booleans")
    return BOOLEANS


def as_numbers(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Numbers, from integers or booleans. Raises ``ValueError``."""
    if contents[0].name == "number":
        raise ValueError("it reads integers or booleans, and these are numbers")
    return NUMBERS
