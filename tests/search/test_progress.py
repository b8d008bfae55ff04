"""One callback for progress, on stretches of its scale."""

from __future__ import annotations

import doctest

import pytest

from collegium.search import progress
from collegium.search.progress import discard, scaled


def test_the_example_runs():
    failed, run = doctest.testmod(progress)
    assert (failed, run > 0) == (0, True)


def test_parts_nest_and_clip():
    seen = []
    part = scaled(scaled(lambda fraction, message: seen.append((fraction, message)), 0.5, 1.0), 0.0, 0.5)
    for fraction in (-1.0, 0.0, 0.5, 1.0, 2.0):
        part(fraction, "step")
    assert seen == [(0.5, "step"), (0.5, "step"), (0.625, "step"), (0.75, "step"), (0.75, "step")]


def test_what_a_report_raises_passes_through():
    def cancel(fraction, message):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scaled(cancel, 0.2, 0.4)(0.5, "")


def test_discarded_progress_has_no_effect():
    assert discard(0.5, "half way") is None
