"""One function answers which versions a result depends on."""

from __future__ import annotations

import doctest
import platform

from collegium import versions


def test_packages_that_are_missing_are_left_out():
    found = versions.versions("numpy", "no-such-package")
    assert found["python"] == platform.python_version()
    assert found["collegium"] == versions.software_version()
    assert set(found) == {"python", "collegium", "numpy"}


def test_the_example_runs():
    assert doctest.testmod(versions) == (0, 1)
