"""The result of a search as text."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from collegium.app.cli.tables.formatting import count, grid, number, percent, widths

_FINE = {"found", "baseline_is_optimal"}


def search_table(result: dict[str, Any]) -> RenderableType:
    """The baseline and both ensembles, then the estimates that they follow from."""
    parts: list[RenderableType] = [_outcome(result), Text(), _ensembles(result), Text()]
    parts += [Text.from_markup(line) for line in _lines(result)]
    if result["correlations"]:
        parts += [Text(), _correlations(result)]
    if result.get("verification"):
        parts += [Text(), _verification(result["verification"])]
    return Group(*parts)


def _outcome(result: dict[str, Any]) -> Text:
    text = Text(result["title"], style="bold")
    for one in (result["outcome"], *result["notes"]):
        text.append(f"\n{one['message']}", style="green" if one["kind"] in _FINE else "yellow")
        if one.get("remedy"):
            text.append(f"\n  {one['remedy']}", style="dim")
    return text


def _ensembles(result: dict[str, Any]) -> RenderableType:
    table = grid("", "m × n", "variance", "parameters", "FLOPs", "ρ", "m before rounding")
    base = result["baseline"]
    table.add_row(
        "baseline",
        f"{base['multiplicity']} × {widths(base)}",
        number(base["variance"]),
        count(base["parameters"]),
        count(base["flops"]),
        "1",
        "",
    )
    for name in ("primal", "dual"):
        answer = result[name]
        if answer is None:
            table.add_row(name, "none", *[""] * 5)
            continue
        table.add_row(
            f"[bold]{name}[/]",
            f"[bold]{answer['multiplicity']} × {widths(answer)}[/]",
            number(answer["variance"]),
            count(answer["parameters"]),
            count(answer["flops"]),
            number(answer["efficiency"], 3),
            number(answer["multiplicity_real"]),
        )
    return table


def _lines(result: dict[str, Any]) -> list[str]:
    lines = []
    near = result["near_optimal"]
    if near:
        pick = near["recommended"]
        lines.append(
            f"[dim]near optimum[/]   n from {near['min_width']} to {near['max_width']} "
            f"(within {percent(near['tolerance'])}); for hardware {widths(pick)}: {escape(pick['reason'])}"
        )
    alpha = result["alpha"]
    error = f" ± {number(alpha['standard_error'], 2)}" if alpha["standard_error"] else ""
    fit = f", R² {alpha['r_squared']:.5f}" if alpha["r_squared"] is not None else ""
    window = alpha["window"]
    span = f", widths {window['min_width']} to {window['max_width']}" if window else ""
    lines.append(
        f"[dim]α[/]              {number(alpha['value'])}{error} ({alpha['method'].replace('_', ' ')}{span}{fit})"
    )
    sure = result["confidence"]
    if sure and sure["draws"]:
        lines.append(
            f"[dim]confidence[/]     n* wins {percent(sure['frequency'])} of {sure['draws']} redrawn estimates; "
            f"{percent(sure['level'])} of the winners are within {sure['low']} to {sure['high']}"
        )
    check = result["check"]
    if check:
        lines.append(
            f"[dim]check[/]          Monte Carlo at most {number(check['largest'], 2)} standard errors from the "
            f"closed form: {'they agree' if check['agrees'] else '[red]they disagree[/]'}"
        )
    lines.append(
        f"[dim]computed[/]       {result['method'].replace('_', ' ')}, {count(result['samples'])} samples, "
        f"seed {result['seed']}, {escape(result['device'])}, {number(result['seconds'], 3)} s"
    )
    return lines


def _correlations(result: dict[str, Any]) -> RenderableType:
    table = grid("input correlation", "n*", "primal m", "dual m", "ρ", left=0)
    for row in result["correlations"]:
        table.add_row(
            number(row["correlation"]),
            widths(row),
            count(row["primal_multiplicity"]),
            count(row["dual_multiplicity"]),
            number(row.get("dual_efficiency", row.get("efficiency")), 3),  # without the prefix in earlier results
        )
    return table


def _verification(verification: dict[str, Any]) -> RenderableType:
    table = grid("built", "ensemble", "predicted", "measured", "standard errors apart", left=2)
    for name in ("primal", "dual"):
        one = verification[name]
        if one:
            table.add_row(
                name,
                f"{one['multiplicity']} × {widths(one)}",
                number(one["predicted"]),
                f"{number(one['measured'])} ± {number(one['standard_error'], 2)}",
                number(one["standard_errors_apart"], 2),
            )
    return table
