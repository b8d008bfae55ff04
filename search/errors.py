"""Exceptions of a search and of what is built from it, and readable paths of the fields that are wrong.

::

    Exception
    ├── InvalidSpec      a field of a specification is wrong
    ├── NotTraceable     a module cannot be described
    └── SampleMismatch   a network does not take samples of this shape
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

Location = tuple[str | int, ...]
ROOT = "$"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_LONGEST_KEY = 64


class InvalidSpec(Exception):
    """A specification that is well-formed but wrong: ``path`` names the field, ``message`` says what would be right.

    ``errors`` lists all wrong fields that were found, of which ``path`` and ``message`` are the first.

    >>> from collegium import InvalidSpec, find_ensemble
    >>> try:
    ...     find_ensemble("resnet50", space={"multiple_of": 0})
    ... except InvalidSpec as error:
    ...     print(error.path, error.message)
    ('space', 'multiple_of') Input should be greater than or equal to 1
    """

    def __init__(self, path: Location, message: str, others: Iterable[tuple[Location, str]] = ()) -> None:
        self.path = path
        self.message = message
        self.errors = ((path, message), *others)
        super().__init__(f"{readable(path)}: {message}")


class NotTraceable(Exception):
    """A module that cannot be described; the message names the lines of its code where it stops.

    >>> from collegium import NotTraceable, describe
    >>> from torch import nn, zeros
    >>> try:
    ...     describe(nn.Linear(3, 4), zeros(1, 5))
    ... except NotTraceable as error:
    ...     print(str(error).partition(":")[0])
    the module can neither be traced nor run with this example input
    """


class SampleMismatch(Exception):
    """Samples that a network does not take.

    ``message`` completes a sentence that begins with the data's name ("has 13 inputs and the network takes 12");
    ``remedy`` is what would be right.
    """

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"the data {message}: {remedy}")


def readable(location: Iterable[str | int]) -> str:
    """``("baseline", "layers", 2, "kernel")`` → ``baseline.layers[2].kernel``; ``$`` is the whole document."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN.match(part) and len(part) <= _LONGEST_KEY:
            text += f".{part}" if text else part
        else:
            text += f"[{_shortened(part)!r}]"
    return text or ROOT


def pointer(location: Iterable[str | int]) -> str:
    """The same place as a JSON Pointer (RFC 6901) in a URI fragment."""
    parts = (_shortened(str(part)).replace("~", "~0").replace("/", "~1") for part in location)
    return "#" + "".join(f"/{part}" for part in parts)


def without_tags(location: Sequence[str | int], document: Any, missing: bool = False) -> Location:
    """The part of a validator's location that exists in ``document``.

    A validator adds the branch of a union that it tried (``("baseline", "mlp", "inputs")``); such a step is neither
    a key nor an index of the document and is left out. The last step of a ``missing`` field is kept. Where a step
    could be either, as for the branch ``preset`` with a field ``preset``, the reading that keeps the last step wins.
    """
    return _best(tuple(location), document, missing)[1]


def _best(location: Location, node: Any, missing: bool) -> tuple[tuple[bool, int], Location]:
    """Whether the last step is kept, how many steps are, and which."""
    if not location:
        return (False, 0), ()
    step, rest = location[0], location[1:]
    readings = [_best(rest, node, missing)]
    if _within(step, node):
        (last, count), kept = _best(rest, _child(step, node), missing)
        readings.append(((last or not rest, count + 1), (step, *kept)))
    elif missing and not rest and isinstance(node, dict):
        readings.append(((True, 1), (step,)))
    return max(readings, key=lambda reading: reading[0])


def _within(step: str | int, node: Any) -> bool:
    if isinstance(node, BaseModel):
        return step in node.model_fields_set
    if isinstance(node, dict):
        return step in node
    return isinstance(node, list | tuple) and isinstance(step, int) and 0 <= step < len(node)


def _child(step: str | int, node: Any) -> Any:
    return getattr(node, str(step)) if isinstance(node, BaseModel) else node[step]


def _shortened(key: str) -> str:
    return key if len(key) <= _LONGEST_KEY else key[: _LONGEST_KEY - 1] + "…"
