"""Shapes of the tensors of a graph: what they may be, and how they fit. Sizes below 0 are multiples of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from collegium.search.networks.graph.spec import MAX_AXES

Shape = tuple[int, ...]
#: The most numbers of one sample, or of a parameter, in one tensor.
MAX_NUMBERS = 2**34


def numbers(shape: Shape) -> int:
    """Numbers of one sample in a tensor."""
    return math.prod(abs(size) for size in shape)


def checked(shape: Sequence[int]) -> Shape:
    """A shape that a tensor may have. Raises ``ValueError``."""
    if len(shape) > MAX_AXES:
        raise ValueError(f"it has {len(shape)} axes, and {MAX_AXES} are the most")
    if any(size == 0 for size in shape):
        raise ValueError(f"its shape {text_of(shape)} has no numbers")
    if sum(size < 0 for size in shape) > 1:
        raise ValueError(f"its shape {text_of(shape)} has the batch in two axes")
    if numbers(tuple(shape)) > MAX_NUMBERS:
        raise ValueError(f"its shape {text_of(shape)} has more than {MAX_NUMBERS:.2g} numbers")
    return tuple(shape)


def text_of(shape: Sequence[int]) -> str:
    """Such as ``batch×3×32×32``."""
    named = {-1: "batch"}
    return "×".join(named.get(size, f"{-size}·batch") if size < 0 else str(size) for size in shape) or "()"


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape of an elementwise operation on tensors of these shapes. Raises ``ValueError``."""
    count = max(map(len, shapes))
    found = [1] * count
    for shape in shapes:
        for axis, size in enumerate(shape, start=count - len(shape)):
            if found[axis] == 1:
                found[axis] = size
            elif size not in (1, found[axis]):
                raise ValueError(f"the shapes {' and '.join(map(text_of, shapes))} do not fit")
    return tuple(found)


def axis_of(value: int, shape: Shape, *, beyond: bool = False) -> int:
    """An axis of a shape, which may be counted from its end; not that of the batch. Raises ``ValueError``."""
    count = len(shape) + beyond
    if not -count <= value < count:
        raise ValueError(f"there is no axis {value} in {text_of(shape)}")
    axis = value % count
    if axis < len(shape) and shape[axis] < 0:
        raise ValueError(f"the axis {value} of {text_of(shape)} is that of the batch")
    return axis


def window_extents(
    extents: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> Shape:
    """Extents of a map after windows slide over it. Raises ``ValueError`` where it is too small."""
    if not len(extents) == len(kernel) == len(stride) == len(padding) == len(dilation) or min(extents) < 0:
        raise ValueError(f"a map with {len(kernel)} dimensions is expected, and it reads one of {text_of(extents)}")
    found = []
    for size, k, step, pad, wide in zip(extents, kernel, stride, padding, dilation, strict=True):
        room = size + 2 * pad - wide * (k - 1) - 1
        count = (room + (step - 1 if ceil_mode else 0)) // step + 1
        if ceil_mode:
            count -= (count - 1) * step >= size + pad  # a window must begin within the map
        if count < 1:
            raise ValueError(f"a map of {text_of(extents)} is too small for the kernel")
        found.append(count)
    return tuple(found)
