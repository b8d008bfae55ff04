"""Extensions by name: those of this package, and those that other installed packages declare as entry points.

A built-in extension is one file and one line in its registry's table. Another package adds one with a file of its own
and a line in its ``pyproject.toml``::

    [project.entry-points."collegium.methods"]
    lookahead = "my_package.lookahead:Lookahead"

Tables are read by the API process too, which never loads torch: a module that defines an extension imports torch
inside the functions that use it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

Extension = TypeVar("Extension")


class UnknownExtension(LookupError):
    """No extension has this name; the message lists those that there are."""


class BrokenExtension(ImportError):
    """An extension of another package cannot be used; the message names it, its package and the reason."""


class Registry(Generic[Extension]):
    """The extensions of one kind. They are imported when they are first asked for.

    ``kind`` is what one of them is called in messages, ``group`` the name of its entry points, and ``built_in`` maps
    names to ``module:attribute``. A built-in name cannot be taken by another package.

    >>> registry = Registry("path operation", "collegium.examples", {"join": "os.path:join"})
    >>> registry.names
    ('join',)
    >>> registry["join"]("a", "b")
    'a/b'
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._built_in = dict(built_in)
        self._loaded: dict[str, Extension] = {}
        self._broken: dict[str, str] = {}

    @cached_property
    def _foreign(self) -> dict[str, EntryPoint]:
        found = {point.name: point for point in entry_points(group=self.group)}
        return {name: found[name] for name in sorted(found) if name not in self._built_in}

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, the built-in ones first; nothing is imported."""
        return (*self._built_in, *self._foreign)

    @property
    def added(self) -> tuple[str, ...]:
        """Names that other packages add; nothing is imported."""
        return tuple(self._foreign)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._foreign

    def __getitem__(self, name: str) -> Extension:
        """The extension of this name. Raises ``UnknownExtension`` and ``BrokenExtension``."""
        if name in self._broken:
            raise BrokenExtension(self._broken[name])
        if name not in self._loaded:
            try:
                self._loaded[name] = self._load(name)
            except BrokenExtension as error:
                self._broken[name] = str(error)
                raise
        return self._loaded[name]

    def usable(self) -> Iterator[tuple[str, Extension]]:
        """Names and extensions in the order of ``names``, without those that are broken."""
        for name in self.names:
            try:
                yield name, self[name]
            except BrokenExtension:
                continue

    def broken(self) -> dict[str, str]:
        """Why each extension that cannot be used cannot, by name."""
        for _ in self.usable():
            pass
        return dict(self._broken)

    def _load(self, name: str) -> Extension:
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            return getattr(import_module(module), attribute)
        if name not in self._foreign:
            raise UnknownExtension(f"no {self.kind} is called {name!r}; there are {', '.join(self.names)}")
        return self._load_foreign(name, self._foreign[name])

    def _load_foreign(self, name: str, point: EntryPoint) -> Extension:
        package = point.dist.name if point.dist is not None else point.module
        had_torch = "torch" in sys.modules
        try:
            with redirect_stdout(sys.stderr):  # what it prints is not part of a command's answer
                extension = cast(Extension, point.load())
        except Exception as error:  # another package's module may raise anything while it is imported
            reason = f"{type(error).__name__}: {error}"
            raise BrokenExtension(f"the {self.kind} {name!r} of {package} cannot be imported: {reason}") from error
        if not had_torch and "torch" in sys.modules:
            raise BrokenExtension(
                f"the {self.kind} {name!r} of {package} loads torch when {point.module} is imported: import torch "
                "inside the functions that use it"
            )
        return extension
