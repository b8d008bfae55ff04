"""What ensembles cost in time and memory, as text."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from collegium.app.cli.tables.formatting import count, grid, number, percent
from collegium.counted import counted

#: Rows shown; the whole list is in the result as JSON.
MOST = 24


def cost_tables(result: dict[str, Any]) -> list[RenderableType]:
    """The front of variance against time, parameters and memory, and the sums over parts beside whole networks."""
    costs = result["costs"]
    front = [row for row in costs["rows"] if row["fronts"]]
    shown = sorted(front, key=lambda row: row["relative_variance"])[:MOST]
    table = grid("m × n", "of the baseline's variance", "ms", "parameters", "MiB", "best for", left=1)
    for row in [costs["rows"][0], *(row for row in shown if row is not costs["rows"][0])]:
        table.add_row(
            row["label"] + (" (baseline)" if row is costs["rows"][0] else ""),
            percent(row["relative_variance"]),
            _time(row["latency_ms"], row["latency_error_ms"]),
            count(row["parameters"]),
            number(row["memory_bytes"] / 2**20),
            ", ".join(row["fronts"]),
        )
    parts: list[RenderableType] = [Text(heading(costs), style="dim"), table]
    if costs["checks"]:
        parts += [Text(), _checks(costs["checks"])]
    return parts


def heading(costs: dict[str, Any]) -> str:
    """What was measured, and on what."""
    words = f"{counted(len(costs['rows']), 'ensemble')}, {costs['workload']}"
    if costs["machine"] is None:
        return f"{words}; memory is counted, no time was measured"
    threads, parts = counted(costs["threads"], "thread"), counted(costs["measured"], "part")
    return f"{words}, on {costs['machine']}, {threads}; {parts} timed, {costs['reused']} reused"


def recommendation(result: dict[str, Any]) -> str | None:
    """The measured ensemble that is recommended, as a line; None where no time was measured."""
    near = result.get("near_optimal") or {}
    pick, costs = near.get("recommended"), result.get("costs")
    if not pick or not costs or costs["machine"] is None:
        return None
    return f"[dim]recommended[/]    {pick['primal']['label']}: {escape(pick['reason'])}"


def _checks(checks: list[dict[str, Any]]) -> RenderableType:
    table = grid("measured whole", "ms", "sum of its parts", "deviation", left=1)
    for one in checks:
        width = one["width"] if one["width"] is not None else tuple(one["widths"])
        table.add_row(
            one.get("label") or f"{one['multiplicity']}×{width}",  # without a label in earlier results
            _time(one["whole_ms"], one["whole_error_ms"]),
            _time(one["sum_ms"], one["sum_error_ms"]),
            f"{100 * one['deviation']:+.1f} %",
        )
    return table


def _time(value: float | None, error: float | None) -> str:
    return "–" if value is None else f"{number(value, 3)} ± {number(error, 1)}"
