"""Which of the tensors that a module gives is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from collegium.search.errors import InvalidSpec

AT = ("network", "output")


def entry_of(given: Any, wanted: str | int | None) -> tuple[Tensor, str]:
    """The tensor of numbers under the key, or at the place, that is ``wanted``, and its name; a lone one has none.

    None wants ``logits``, or else the first tensor of numbers that is not a single one, as a loss is. Of what an entry
    holds, the first such tensor is taken. Raises ``InvalidSpec`` with what there is.

    >>> import torch
    >>> y = {"loss": torch.tensor(1.0), "hidden": (torch.zeros(2, 3), torch.ones(2, 4))}
    >>> entry_of(y, None)[1], entry_of(y, "hidden")[0].shape, entry_of(torch.zeros(2, 3), None)[1]
    ('hidden', torch.Size([2, 3]), '')
    """
    if isinstance(given, Tensor) and wanted is None:
        return given, ""
    entries = dict(_entries(given))
    if wanted is None:
        names = ["logits", *entries] if "logits" in entries else list(entries)
    else:
        names = _named(entries, wanted)
    for name in names:
        found = next((each for each in _numbers(entries[name]) if each.dim()), None)
        if found is not None:
            return found, name
    said = f"it gives {', '.join(entries)}" if entries else f"the module gives a {type(given).__name__}"
    missed = "a tensor of numbers is needed" if wanted is None else f"no tensor of numbers is called {wanted!r}"
    raise InvalidSpec(AT, f"{missed}: {said}")


def _entries(given: Any) -> Iterator[tuple[str, Any]]:
    """What a module gives, by key or place."""
    if isinstance(given, Mapping):
        yield from ((str(key), value) for key, value in given.items())
    elif dataclasses.is_dataclass(given):
        yield from ((field.name, getattr(given, field.name)) for field in dataclasses.fields(given))
    elif isinstance(given, tuple) and hasattr(given, "_fields"):
        yield from zip(given._fields, given, strict=True)  # type: ignore[attr-defined]
    elif isinstance(given, list | tuple):
        yield from ((str(place), value) for place, value in enumerate(given))


def _named(entries: Mapping[str, Any], wanted: str | int) -> list[str]:
    if isinstance(wanted, int):
        return list(entries)[wanted : wanted + 1]
    return [wanted] if wanted in entries else []


def _numbers(value: Any) -> Iterator[Tensor]:
    """Every tensor of floating-point numbers in a value, in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    for _, inner in _entries(value):
        yield from _numbers(inner)
