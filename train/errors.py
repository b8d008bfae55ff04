"""Exceptions that end a training; each has a ``kind``, a ``message`` and a ``remedy``.

::

    TrainingError
    ├── DataError     data that cannot be used
    ├── Diverged      the loss is no longer a finite number
    ├── DoesNotFit    the device has too little memory for this training
    ├── Mismatch      architecture, method and data do not go together
    └── MissingExtra  an optional package is needed and not installed

A wrong specification raises :class:`collegium.search.errors.InvalidSpec`.
"""

from __future__ import annotations


class TrainingError(Exception):
    """A training that cannot go on; a second attempt would end in the same way.

    >>> from collegium import TrainingError, run_training
    >>> mlp = {"baseline": {"family": "mlp", "inputs": 16, "hidden": [8, 8], "outputs": 10}}
    >>> try:
    ...     run_training({"architecture": mlp, "data": "digits", "recipe": {"epochs": 1}})
    ... except TrainingError as error:
    ...     print(error.remedy)
    give 'inputs': 64
    """

    kind = "user_error"

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(message)


class Diverged(TrainingError):
    """The loss is no longer a finite number."""


class DoesNotFit(TrainingError):
    """The device has too little memory for this training."""

    kind = "out_of_memory"


class Mismatch(TrainingError):
    """Architecture, method and data do not go together."""

    kind = "invalid_spec"


class MissingExtra(TrainingError):
    """An optional package is needed and not installed."""


class DataError(TrainingError):
    """Data that cannot be used: ``message`` is what is wrong with it, ``remedy`` what would be right."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message
