"""What a section is given: a device, a budget, and a file of rows that outlives it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bench:
    """One section's run: ``device`` is ``cuda`` or ``cpu``, ``tiny`` asks for sizes that only check the code."""

    device: str
    tiny: bool
    seconds: float
    path: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def left(self, reserve: float = 5.0) -> float:
        """Seconds of the budget that are left, but for those that ending takes."""
        return max(0.0, self.seconds - reserve - (time.monotonic() - self.started))

    def row(self, **values: Any) -> None:
        """Add a row of the section's table, at once: a section that is stopped keeps what it had."""
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as one Markdown table, with every column that any of them has."""
    if not rows:
        return "no rows"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, [":--" if _is_text(rows, name) else "--:" for name in columns]]
    lines += [[_cell(row.get(name)) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_text(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return any(isinstance(row.get(name), str) for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
