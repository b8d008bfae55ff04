"""Majority kernels with and without the C code."""

import pytest

from collegium.train.majority.native import passes


@pytest.fixture
def without_native(monkeypatch):
    """Operators alone, as where the package was installed without a C compiler."""
    monkeypatch.setattr(passes, "_library", lambda: None)
