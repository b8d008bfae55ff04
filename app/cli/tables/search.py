"""The result of a search as text."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from collegium.app.cli.tables.costs import cost_tables, recommendation
from collegium.app.cli.tables.formatting import count, grid, grouping, number, percent, widths
from collegium.counted import counted

#: Gap to the bound of an integer program up to which it is solved.
MOST_GAP = 1e-5
_FINE = {"found", "baseline_is_optimal"}


def search_table(result: dict[str, Any]) -> RenderableType:
    """The baseline and both ensembles, then the estimates that they follow from."""
    parts: list[RenderableType] = [_outcome(result), Text(), _ensembles(result), Text()]
    parts += [Text.from_markup(line) for line in _lines(result)]
    if _is_curve(result):
        parts += [Text(), _curve(result)]
    if result.get("branches"):
        parts += [Text(), _branches(result["branches"])]
    if result["correlations"]:
        parts += [Text(), _correlations(result)]
    if result.get("verification"):
        parts += [Text(), _verification(result["verification"])]
    if result.get("costs"):
        parts += [Text(), *cost_tables(result)]
    if result.get("network"):
        parts += [Text(), *_networks(result["network"])]
    return Group(*parts)


def _outcome(result: dict[str, Any]) -> Text:
    text = Text(result["title"], style="bold")
    for one in (result["outcome"], *result["notes"]):
        text.append(f"\n{one['message']}", style="green" if one["kind"] in _FINE else "yellow")
        if one.get("remedy"):
            text.append(f"\n  {one['remedy']}", style="dim")
    return text


def _is_curve(result: dict[str, Any]) -> bool:
    """Whether the answer is a curve and no ensemble, as of the heads of attention."""
    return result["outcome"]["kind"] == "no_optimum"


def _curve(result: dict[str, Any]) -> RenderableType:
    """What was measured at every width, at the same cost."""
    table = grid("heads × width", "variance", "of the baseline's", "±")
    for row in result["curve"]:
        table.add_row(
            f"{row['primal_multiplicity']} × {widths(row)}",
            number(row["primal_variance"]),
            percent(row["primal_relative_variance"]),
            percent(row.get("primal_standard_error")),
        )
    return table


def _ensembles(result: dict[str, Any]) -> RenderableType:
    table = grid("", "m × n", "variance", "of the baseline's", "parameters", "FLOPs", "of the budget", "ρ", "m real")
    base = result["baseline"]
    table.add_row(
        "baseline",
        f"{base['multiplicity']} × {widths(base)}",
        number(base["variance"]),
        "100 %",
        count(base["parameters"]),
        count(base["flops"]),
        percent(_own_cost(result) / result["budget"], 4),
        "1",
        "",
    )
    for name in ("primal", "dual"):
        answer = result[name]
        if answer is None:
            table.add_row(name, "none", *[""] * 7)
            continue
        table.add_row(
            f"[bold]{name}[/]",
            f"[bold]{grouping(answer)}[/]",
            number(answer["variance"]),
            _relative(answer),
            count(answer["parameters"]),
            count(answer["flops"]),
            percent(answer.get("budget_share"), 4),
            number(answer["efficiency"], 3),
            number(answer["multiplicity_real"]) if answer.get("uniform", True) else "",
        )
    return table


def _branches(branches: list[dict[str, Any]]) -> RenderableType:
    """What each part of a network is split into, on its own."""
    table = grid("branches", "parameters", "baseline", "primal", "of its variance", "dual", "of its variance")
    for branch in branches:
        found = branch["result"]
        base, cells = found["baseline"], []
        for name in ("primal", "dual"):
            answer = found[name]
            cells += ["none", ""] if answer is None else [grouping(answer), _relative(answer)]
        names = ", ".join(branch["names"][:3]) + (", …" if len(branch["names"]) > 3 else "")
        own = f"{base['multiplicity']} × {widths(base)}"
        table.add_row(escape(names), count(branch["parameters"]), own, *cells)
    return table


def _own_cost(result: dict[str, Any]) -> float:
    """The baseline's cost in the measure of the search."""
    measure, base = result["measure"], result["baseline"]
    if measure in ("parameters", "flops"):
        return base[measure]
    return result["costs"]["rows"][0]["latency_ms" if measure == "latency" else "memory_bytes"]


def _relative(answer: dict[str, Any]) -> str:
    """The share of the baseline's variance: of the worst stage, or from the best to the worst of several."""
    shares = [stage["relative_variance"] for stage in answer.get("stages", ())]
    worst = percent(answer.get("relative_variance"))
    return f"{100 * min(shares):.3g} – {worst}" if len(shares) > 1 else worst


def _lines(result: dict[str, Any]) -> list[str]:
    lines = []
    if result.get("subject"):
        lines.append(f"[dim]variance of[/]    {escape(result['subject'])}")
    if any(layer["activation"] not in ("relu", "identity") for layer in result.get("gains", ())):
        lines.append(f"[dim]initialized[/]    {_gains(result['gains'])}")
    for name in ("primal", "dual"):
        stages = (result[name] or {}).get("stages", ())
        if stages:
            each = ", ".join(f"{grouping(stage)}: {percent(stage['relative_variance'])}" for stage in stages)
            lines.append(f"[dim]{name + ' stages':<14}[/] of the baseline's variance there: {each}{_gap(result[name])}")
    tied = result.get("tied_dual") or result.get("tied_primal")
    if tied:
        both = [f"{name} {grouping(one)}" for name in ("primal", "dual") if (one := result[f"tied_{name}"])]
        lines.append(f"[dim]one m × n[/]      {', '.join(both)}")
    measured = recommendation(result)
    if measured:
        lines.append(measured)
    near = result["near_optimal"]
    if near:
        pick = near["recommended"]
        recommended = (
            f"for hardware {_pick(pick)}: {escape(pick['reason'])}" if pick else "no ensemble of them is recommended"
        )
        pick_here = "" if measured or _is_curve(result) else f"; {recommended}"
        lines.append(
            f"[dim]near optimum[/]   n from {near['min_width']} to {near['max_width']} "
            f"(within {percent(near['tolerance'])}){pick_here}"
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
            f"closed form: {_agreement(check)}"
        )
    verification = result["verification"]
    if verification:
        lines.append(f"[dim]measured[/]       the ensembles as built and the prediction: {_agreement(verification)}")
    samples = counted(result["samples"], "sample", written=count(result["samples"])) + _reused(result)
    lines.append(
        f"[dim]computed[/]       {result['method'].replace('_', ' ')}, {samples}, "
        f"seed {result['seed']}, {escape(result['device'])}, {number(result['seconds'], 3)} s"
    )
    return lines


def _gains(layers: list[dict[str, Any]]) -> str:
    """Such as ``gelu; weights of variance g / fan-in, with g = 1, 2.352 (5 layers)``."""
    names = dict.fromkeys(layer["activation"] for layer in layers[:-1])
    runs = [(gain, len(list(run))) for gain, run in groupby(number(layer["gain"]) for layer in layers)]
    gains = ", ".join(gain if count == 1 else f"{gain} ({count} layers)" for gain, count in runs)
    return f"{escape(' and '.join(names))}; weights of variance g / fan-in with g = {gains}"


def _gap(answer: dict[str, Any]) -> str:
    """How much better another choice for the stages could be, where that is not nothing."""
    gap = answer.get("gap") or 0.0
    return f"; another choice is at most {100 * gap:.2g} % better" if gap > MOST_GAP else ""


def _pick(recommended: dict[str, Any]) -> str:
    """The width of a recommended member, or what every stage has where they differ."""
    primal = recommended["primal"]
    return primal["label"] if primal and not primal.get("uniform", True) else widths(recommended)


def _agreement(comparison: dict[str, Any]) -> str:
    """Results that were stored earlier have ``agrees`` alone."""
    found = comparison.get("agreement") or ("agree" if comparison["agrees"] else "disagree")
    return {
        "agree": "they agree",
        "disagree": "[red]they disagree[/]",
        "cannot_tell": "[yellow]the samples cannot tell[/]",
    }[found]


def _reused(result: dict[str, Any]) -> str:
    return f" ({count(result['reused'])} of them from earlier searches)" if result.get("reused") else ""


def _correlations(result: dict[str, Any]) -> RenderableType:
    table = grid("input correlation", "primal", "dual", "ρ", left=0)
    for row in result["correlations"]:
        primal = {"width": row["width"], "widths": row["widths"], "multiplicity": row["primal_multiplicity"]}
        own = {"width": row["dual_width"], "widths": row["dual_widths"]} if "dual_widths" in row else {}
        table.add_row(
            number(row["correlation"]),
            _answer(primal),
            _answer({**primal, **own, "multiplicity": row["dual_multiplicity"]}),  # at its width in earlier results
            number(row.get("dual_efficiency", row.get("efficiency")), 3),  # without the prefix in earlier results
        )
    return table


def _answer(ensemble: dict[str, Any]) -> str:
    return "none" if ensemble["multiplicity"] is None else grouping(ensemble)


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


def _networks(measured: dict[str, Any]) -> list[RenderableType]:
    """Whole networks' variances relative to the baseline's, and their kernels' condition over the inputs measured."""
    table = grid("whole network", "m × n", "variance", "of the baseline's", "draws", "condition number", left=1)
    for one in measured["networks"]:
        ratio, error = one["ratio"], one["ratio_standard_error"]
        table.add_row(
            one["name"],
            one["label"],
            f"{number(one['relative_variance'])} ± {number(one['standard_error'], 2)}",
            "–" if ratio is None else f"{percent(ratio)} ± {percent(error)}" if error else percent(ratio),
            count(one["draws"]),
            number(one["gram"]["condition_number"]["quantiles"][2], 3),
        )
    return [table, Text(measured["statement"], style="dim")]
