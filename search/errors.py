"""The one exception that a wrong specification raises."""

from __future__ import annotations


class InvalidSpec(ValueError):
    """A specification that is well-formed but wrong: ``path`` names the field, ``message`` says what would be right."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        self.path = path
        self.message = message
        super().__init__(f"{'.'.join(map(str, path))}: {message}")
