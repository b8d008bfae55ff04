"""Sums and products of integers, with bounds that follow by arithmetic: positions that are counted from a mask.

Each rule gives what a result holds, from what is read, the shapes of that and the options; numbers stay numbers. It
raises ``ValueError`` where kinds are mixed, or integers would not be held exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collegium.search.networks.graph.content import LARGEST_INTEGER, Content, of_numbers


def summed(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Sums of two tensors.

    >>> summed([Content("integer", 0, 3), Content("integer", -1, 2)], (), {})
    Content(name='integer', low=-1, high=5)
    """
    if not _integers(contents):
        return of_numbers(contents, shapes, options)
    one, other = contents
    return _within((one.low + other.low, one.high + other.high))


def multiplied(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Products of two tensors, between the least and the largest product of two bounds."""
    if not _integers(contents):
        return of_numbers(contents, shapes, options)
    one, other = contents
    return _within(a * b for a in (one.low, one.high) for b in (other.low, other.high))


def shifted(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Sums with one number, which is whole where the tensor holds integers."""
    if not _integers(contents):
        return of_numbers(contents, shapes, options)
    number = _whole(options["number"])
    return _within((contents[0].low + number, contents[0].high + number))


def scaled(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Products with one number, which is whole where the tensor holds integers."""
    if not _integers(contents):
        return of_numbers(contents, shapes, options)
    number = _whole(options["number"])
    return _within((contents[0].low * number, contents[0].high * number))


def accumulated(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Sums of the first numbers along an axis: of integers, of one up to all of them.

    >>> accumulated([Content("integer", 0, 1)], [(-1, 6)], {"axis": 1})
    Content(name='integer', low=0, high=6)
    """
    if not _integers(contents):
        return of_numbers(contents, shapes, options)
    (content,), size = contents, abs(shapes[0][options["axis"]])
    return _within((content.low, content.low * size, content.high, content.high * size))


def as_integers(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """0 and 1, from booleans."""
    if contents[0].name != "boolean":
        raise ValueError(f"it reads booleans, and these are {contents[0].name}s")
    return Content("integer", 0, 1)


def places(contents: Sequence[Content], shapes: Sequence[Any], options: Mapping[str, Any]) -> Content:
    """Places along an axis, of numbers or integers.

    >>> places([Content("number")], [(-1, 6)], {"axis": 1})
    Content(name='integer', low=0, high=5)
    """
    if contents[0].name == "boolean":
        raise ValueError("it compares numbers or integers, and reads booleans")
    return Content("integer", 0, shapes[0][options["axis"]] - 1)


def _integers(contents: Sequence[Content]) -> bool:
    return all(each.name == "integer" for each in contents)


def _whole(number: Any) -> int:
    if not isinstance(number, int):
        raise ValueError("the option 'number' must be whole: it reads integers")
    return number


def _within(found: Iterable[int]) -> Content:
    bounds = list(found)
    if max(map(abs, bounds)) > LARGEST_INTEGER:
        raise ValueError(f"integers up to {max(map(abs, bounds))} are beyond 2^53")
    return Content("integer", min(bounds), max(bounds))
