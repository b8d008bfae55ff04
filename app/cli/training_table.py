"""The answers of trainings and studies, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.tables import count, grid, number, percent

_SPLITS = ("train", "validation", "test")


def training_table(result: dict[str, Any]) -> RenderableType:
    """Accuracy and loss of the collapsed model on each split."""
    table = grid("collapsed model", *_SPLITS)
    for name, shown in (("accuracy", lambda value: percent(value, 4)), ("loss", number)):
        values = result.get(name) or {}
        table.add_row(name, *(shown(values.get(split)) for split in _SPLITS))
    shape = result.get("widths")
    facts = f"{count(result.get('parameters'))} parameters"
    if shape:
        size = shape[0] if len(set(shape)) == 1 else tuple(shape)
        facts = f"{result.get('multiplicity')} × {size}, {facts}"
    if result.get("seconds") is not None:
        facts += f", {number(result['seconds'], 3)} s"
    return Group(table, Text(facts, style="dim"))


def study_table(result: dict[str, Any]) -> RenderableType:
    """One row for each cell of the study."""
    rows = next((result[name] for name in ("table", "rows", "cells") if isinstance(result.get(name), list)), [])
    flat = [dict(_leaves(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    table = grid(*(name.replace("_", " ") for name in columns))
    for row in flat:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _leaves(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            yield prefix + name, value


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else "–" if value is None else str(value)
