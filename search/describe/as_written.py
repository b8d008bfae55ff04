"""What ``torch.compile`` has compiled, as its code says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class _Uncompiled:
    """torch's stance, which is one for all threads: the first that enters sets it, the last that leaves restores it."""

    def __init__(self) -> None:
        self.lock, self.users, self.stance = threading.Lock(), 0, ExitStack()

    def enter(self) -> None:
        with self.lock:
            if not self.users:
                self.stance.enter_context(torch.compiler.set_stance("force_eager"))
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.stance.close()


_uncompiled = _Uncompiled()


@contextmanager
def as_written() -> Iterator[None]:
    """Context, or decorator, in which compiled modules and functions run uncompiled, in all threads.

    A compiler's backend has operators of its own, and would compile for each width that is tried.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and importing it takes seconds
        yield
        return
    _uncompiled.enter()
    try:
        yield
    finally:
        _uncompiled.leave()
