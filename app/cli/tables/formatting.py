"""Numbers, times and states as the text of a table's cell."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.table import Table

STATUS_STYLE = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "cancelling": "yellow",
}  # fmt: skip


def grid(*heads: str, left: int = 1, title: str = "") -> Table:
    """An empty table; the first ``left`` columns are aligned to the left, numbers after them to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim", title=title or None, title_justify="left")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index < left else "right", no_wrap=index >= left)
    return table


def count(value: float | None) -> str:
    """A whole number in groups of three digits."""
    return "–" if value is None else f"{round(value):,}".replace(",", "\u202f")


def number(value: float | None, digits: int = 4) -> str:
    """A number to some significant digits."""
    return "–" if value is None else f"{value:.{digits}g}"


def percent(value: float | None, digits: int = 3) -> str:
    """A fraction as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}g} %"


def widths(member: dict[str, Any]) -> str:
    """The width of a member, or its width vector."""
    if member.get("width") is not None:
        return str(member["width"])
    return "(" + ", ".join(map(str, member["widths"])) + ")"


def grouping(answer: dict[str, Any]) -> str:
    """An ensemble as m × n; those of every stage where each has its own."""
    if answer.get("uniform", True):
        return f"{answer['multiplicity']} × {widths(answer)}"
    return ", ".join(f"{stage['multiplicity']}×{widths(stage)}" for stage in answer["stages"])


def status(value: str) -> str:
    """A status in its colour."""
    return f"[{STATUS_STYLE.get(value, 'default')}]{value}[/]"


def ago(moment: str | None) -> str:
    """How long ago an RFC 3339 time was."""
    if moment is None:
        return "–"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"
