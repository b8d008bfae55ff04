"""What ``torch.compile`` has compiled, as its code says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def as_written() -> Iterator[None]:
    """Context, or decorator, in which compiled modules and functions run uncompiled.

    A compiler's backend has operators of its own, and would compile for each width that is tried.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
