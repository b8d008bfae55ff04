"""Why something of a trace has no place in a graph. A file of its own, since all others raise it."""

from __future__ import annotations


class Missing(Exception):
    """Why the value of a node is not known; ``placed`` where that names the operator already."""

    def __init__(self, message: str, placed: bool = False) -> None:
        super().__init__(message)
        self.placed = placed
