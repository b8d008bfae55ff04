"""What the exceptions are, and are not."""

from __future__ import annotations

import doctest

from collegium.search import errors
from collegium.search.errors import InvalidSpec


def test_a_wrong_specification_passes_through_handlers_of_wrong_values():
    """``except ValueError`` around a computation is meant for numbers; it must not take a specification's error."""
    assert not issubclass(InvalidSpec, ValueError)


def test_the_message_begins_with_the_path():
    error = InvalidSpec(("space", "widths", 0), "give an integer")
    assert (error.path, error.message) == (("space", "widths", 0), "give an integer")
    assert str(error) == "space.widths[0]: give an integer"


def test_the_example_runs():
    found = doctest.testmod(errors)
    assert found.failed == 0
    assert found.attempted >= 2
