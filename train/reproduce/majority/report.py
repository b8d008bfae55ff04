"""Tables of the study, as Markdown, and its figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from collegium.search.plot import render
from collegium.train.reproduce.majority.entrants import ENTRANTS, LONG, REFERENCE
from collegium.train.reproduce.majority.figures import curves_figure, sharpness_figure
from collegium.train.reproduce.majority.lines import Line, lines
from collegium.train.reproduce.majority.outlook import outlook
from collegium.train.reproduce.majority.plan import Unit
from collegium.train.reproduce.majority.records import Records


def markdown(units: Sequence[Unit], records: Records) -> str:
    """How far it got, what each method gave over all cells, and every cell."""
    found = lines(units, records)
    far = outlook(units, records)
    seeds, tuning = units[0].seeds, units[0].tuning_seeds
    head = (
        f"So far {far.units_done} of {far.units} methods × settings, {far.trainings_done:,} trainings. Differences are "
        f"in points of test accuracy, seed by seed over {seeds} seeds, with 95 % intervals; more is better. A seed "
        "draws the training images, the wrong labels and the initialization, alike for all methods. Rate and epochs "
        f"of each were chosen on 5,000 validation images with right labels, by {tuning} seeds of their own."
    )
    return "\n\n".join([head, _summary(found), _table(found), *_at_bounds(found)])


def _summary(found: Sequence[Line]) -> str:
    rows = [
        "| method | settings | mean difference to vanilla | better | worse | settings with the long one | to that |"
    ]
    rows.append("|---|---|---|---|---|---|---|")
    for name in ENTRANTS:
        own = [line for line in found if line.unit.name == name]
        if name == REFERENCE or not own:
            continue
        signs = [line.to_plain.sign for line in own]
        long = [line.to_long.mean for line in own if line.to_long.pairs]
        over_long = f"{fmean(long):+.2f}" if long and name != LONG else "–"
        rows.append(
            f"| {name} | {len(own)} | {fmean(line.to_plain.mean for line in own):+.2f} | {signs.count(1)} "
            f"| {signs.count(-1)} | {len(long) if name != LONG else '–'} | {over_long} |"
        )
    return "\n".join(rows)


def _table(found: Sequence[Line]) -> str:
    rows = ["| setting | method | rate | epochs | errors, % | to vanilla | to vanilla, 3 × as long | Δ |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for line in found:
        mark = "*" if line.choice.at_bounds else ""
        sharpness = [row["sharpness"] for row in line.rows.values() if row["sharpness"] is not None]
        rows.append(
            f"| {line.unit.cell.name} | {line.unit.name} | {line.choice.rate:.3g}{mark} | {line.choice.epochs} "
            f"| {line.error:.2f} | {line.to_plain if line.unit.name != REFERENCE else ''} "
            f"| {line.to_long if line.unit.name != LONG else ''} | {f'{fmean(sharpness):.4f}' if sharpness else ''} |"
        )
    return "\n".join(rows)


def _at_bounds(found: Sequence[Line]) -> list[str]:
    reached = [
        f"{line.unit.cell.name}, {line.unit.name}: {' and '.join(line.choice.at_bounds)}"
        for line in found
        if line.choice.at_bounds
    ]
    return [f"\\* The choice lies at a bound of the search: {'; '.join(reached)}."] if reached else []


def write_report(units: Sequence[Unit], records: Records, folder: Path) -> str:
    """``majority.md``, ``majority-curves.svg`` and ``majority-sharpness.svg`` in ``folder``; the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(units, records)
    (folder / "majority.md").write_text(text + "\n")
    found = lines(units, records)
    for name, figure in (("curves", curves_figure(found)), ("sharpness", sharpness_figure(found))):
        (folder / f"majority-{name}.svg").write_bytes(render(figure, "svg"))
    return text
