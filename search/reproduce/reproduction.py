"""A figure or table of a paper, and its reproduction: printable rows, notes on what differs, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from collegium.search.plot import PlotFormat, render


@dataclass(frozen=True)
class Reproduction:
    """One experiment of the paper, repeated.

    ``claim`` is the paper's, in other words; ``agrees``: whether the reproduction confirms it to the printed digits.
    """

    name: str
    title: str
    claim: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    agrees: bool
    figure: Figure

    @property
    def verdict(self) -> str:
        """The claim, and whether it is confirmed."""
        return f"Claim: {self.claim} Seen here: {'yes' if self.agrees else 'no'}."

    def text(self) -> str:
        """A plain table with its title, claim and notes."""
        lines = [self.title, self.verdict, "", *_aligned([self.columns, *self.rows])]
        return "\n".join([*lines, *([""] if self.notes else []), *self.notes])

    def markdown(self) -> str:
        """The same as Markdown."""
        rule = "|".join(["", *(" --- " for _ in self.columns), ""])
        table = [f"| {' | '.join(row)} |" for row in (self.columns, *self.rows)]
        notes = [f"* {note}" for note in self.notes]
        return "\n".join([f"### {self.title}", "", self.verdict, "", table[0], rule, *table[1:], "", *notes]).strip()

    def data(self) -> dict[str, Any]:
        """The table as JSON-able data."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {
            "name": self.name,
            "title": self.title,
            "claim": self.claim,
            "agrees": self.agrees,
            "rows": rows,
            "notes": list(self.notes),
        }

    def plot(self, format: PlotFormat = "svg") -> bytes:
        """The plot as a file."""
        return render(self.figure, format)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    made = [
        "  ".join(
            cell.ljust(size) if column == 0 else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [made[0], "-" * max(map(len, made)), *made[1:]]
