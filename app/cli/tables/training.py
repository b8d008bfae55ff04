"""Training and study results as text."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from collegium.app.cli.tables.formatting import count, grid, number, percent

_SPLITS = ("train", "validation", "test")


def training_table(result: dict[str, Any]) -> RenderableType:
    """Accuracy and loss of the trained model on each split, its size and its diagnostics."""
    table = grid("trained model", *_SPLITS)
    for name, shown in (("accuracy", lambda value: percent(value, 4)), ("loss", number)):
        values = result.get(name) or {}
        table.add_row(name, *(shown(values.get(split)) for split in _SPLITS))
    sampled = result.get("sampled")
    if sampled:
        table.add_row("accuracy as sampled", *(percent(sampled["accuracy"].get(split), 4) for split in _SPLITS))
    parts: list[RenderableType] = [table, Text(_facts(result), style="dim")]
    known = {name: value for name, value in (result.get("diagnostics") or {}).items() if value is not None}
    if known:
        parts.append(Text(", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in known.items())))
    parts += [Text(note["message"], style="yellow") for note in result.get("notes") or ()]
    return Group(*parts)


def study_table(result: dict[str, Any]) -> RenderableType:
    """One row for each cell of the study."""
    cells = result["cells"]
    several_recipes = len({cell["recipe"] for cell in cells}) > 1
    swept = any(cell["chosen"] for cell in cells)
    heads = ["m × n", "parameters", "test accuracy", "test loss", *(["chosen"] if swept else []), "seeds"]
    names = ["architecture", "method", *(["recipe"] if several_recipes else [])]
    table = grid(*names, *heads, left=len(names))
    for cell in cells:
        chosen = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in cell["chosen"].items())
        table.add_row(
            *(escape(cell[name]) for name in names),
            _grouping(cell),
            count(cell["parameters"]),
            _with_error(cell["test_accuracy"], cell["test_accuracy_error"], 100.0, " %"),
            _with_error(cell["test_loss"], cell["test_loss_error"], 1.0, ""),
            *([chosen or "–"] if swept else []),
            f"{cell['succeeded']} of {len(cell['runs'])}",
        )
    notes = [Text(note["message"], style="yellow") for note in result.get("notes") or ()]
    return Group(Text(result["title"], style="bold"), table, *notes)


def _facts(result: dict[str, Any]) -> str:
    facts = f"{count(result.get('parameters'))} parameters, {number(result.get('seconds'), 3)} s"
    return f"{_grouping(result)}, {facts}" if result.get("widths") or result.get("stages") else facts


def _grouping(item: dict[str, Any]) -> str:
    if item.get("stages"):
        return ", ".join(map(_grouping, item["stages"]))
    shape = item.get("widths")
    if not shape:
        return "–"
    return f"{item['multiplicity']} × {shape[0] if len(set(shape)) == 1 else tuple(shape)}"


def _with_error(value: float | None, error: float | None, scale: float, unit: str) -> str:
    if value is None:
        return "–"
    return f"{number(scale * value)}{f' ± {number(scale * error, 2)}' if error is not None else ''}{unit}"
