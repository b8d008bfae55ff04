"""An answer as a few lines of text: what was found, and the baseline beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collegium.search.part import named_widths

#: A space that keeps the digits of a number on one line.
NARROW_SPACE = "\u202f"

_HEADS = ("", "m × n", "variance", "of the baseline's", "parameters", "FLOPs", "ρ")


def answer_text(answer: Any) -> str:
    """A ``SearchResult``: title, outcome, and rows of the baseline, the primal, the dual and the recommended ensemble.

    ``m × n`` of an ensemble whose stages are grouped apart lists every stage; a variance is that of the first stage,
    and its ratio to the baseline's that of the stage where it is largest.
    """
    base = answer.baseline
    own = f"{base.multiplicity} × {named_widths(base.widths)}"
    rows = [_HEADS, ("baseline", own, f"{base.variance:.4g}", "100 %", *_costs(base), "1")]
    for name in ("primal", "dual", "recommended"):
        member = getattr(answer, name)
        if member is not None:
            ratio = "–" if member.relative_variance is None else f"{100 * member.relative_variance:.3g} %"
            named = member.label if not member.uniform else f"{member.multiplicity} × {named_widths(member.widths)}"
            rows.append((name, named, f"{member.variance:.4g}", ratio, *_costs(member), f"{member.efficiency:.3g}"))
    said = [line for one in (answer.outcome, *answer.notes) for line in (one.message, one.remedy) if line]
    return "\n".join([answer.title, *said, "", *_aligned(rows)])


def _costs(member: Any) -> tuple[str, str]:
    return grouped(member.parameters), grouped(member.flops)


def grouped(value: float) -> str:
    """A whole number in groups of three digits, as tables and messages have it.

    >>> grouped(25557032).split(NARROW_SPACE)
    ['25', '557', '032']
    """
    return f"{round(value):,}".replace(",", NARROW_SPACE)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.rjust(size) for cell, size in zip(row[1:], sizes[1:], strict=True)] for row in rows]
    return ["  ".join([row[0].ljust(sizes[0]), *cells]) for row, cells in zip(rows, padded, strict=True)]
