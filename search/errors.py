"""Exceptions of a search, and of what is built from it.

::

    Exception
    ├── InvalidSpec      a field of a specification is wrong
    └── SampleMismatch   a network does not take samples of this shape
"""

from __future__ import annotations

from collections.abc import Iterable

Path = tuple[str | int, ...]


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

    def __init__(self, path: Path, message: str, others: Iterable[tuple[Path, str]] = ()) -> None:
        self.path = path
        self.message = message
        self.errors = ((path, message), *others)
        super().__init__(f"{'.'.join(map(str, path))}: {message}")


class SampleMismatch(Exception):
    """Samples that a network does not take.

    ``message`` completes a sentence that begins with the data's name ("has 13 inputs and the network takes 12");
    ``remedy`` is what would be right.
    """

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"the data {message}: {remedy}")
