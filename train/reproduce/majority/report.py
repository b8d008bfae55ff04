"""Tables of the study, as Markdown, and its figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from collegium.search.plot import render
from collegium.train.reproduce.majority.entrants import ENTRANTS, LONG, REFERENCE
from collegium.train.reproduce.majority.intervals import Difference, mean_difference
from collegium.train.reproduce.majority.lines import Line, lines
from collegium.train.reproduce.majority.outlook import outlook
from collegium.train.reproduce.majority.plan import Unit
from collegium.train.reproduce.majority.plots import curves_figure, sharpness_figure
from collegium.train.reproduce.majority.records import Records

SHOWN = 10
"""Conflicting records that a report names, at most."""
_MARK = "†"  # where seeds diverged


def markdown(units: Sequence[Unit], records: Records) -> str:
    """How far it got, what each method gave over all cells, and every cell."""
    found = lines(units, records)
    far = outlook(units, records)
    seeds, tuning = units[0].seeds, units[0].tuning_seeds
    head = (
        f"So far {far.units_done} of {far.units} methods × settings, {far.trainings_done:,} trainings. Differences are "
        f"in points of test accuracy, seed by seed over {seeds} seeds, with 95 % intervals; more is better. A seed "
        "draws the training images, the wrong labels and the initialization, alike for all methods. Rate and epochs "
        f"of each were chosen on 5,000 validation images with right labels, by {tuning} seeds of their own, "
        "once for all seeds: intervals of one setting are without the error of that choice, intervals over settings "
        "(first table) have it. Settings have seeds, images and wrong labels in common: where a few of them happen to "
        "agree, an interval over settings is too narrow. Of 60,000 images, 55,000 are trained on."
    )
    notes = [*_at_bounds(found), *_diverged(found, units, records), *_conflicts(records)]
    return "\n\n".join([head, _summary(found), _table(found), *notes])


def _summary(found: Sequence[Line]) -> str:
    """Means over settings, by the share of wrong labels, and in how many an interval excludes 0."""
    shares = sorted({line.unit.cell.noise for line in found})
    columns = [f"{100 * share:.0f} % wrong" for share in shares]
    heads = ["method", "settings", "all", *columns, "better", "worse", "over the long one"]
    rows = [_row(heads), _row(["---"] * len(heads))]
    for name in ENTRANTS:
        own = [line for line in found if line.unit.name == name]
        if name == REFERENCE or not own:
            continue
        signs = [line.to_plain.sign for line in own]
        by_share = [_mean([line.to_plain for line in own if line.unit.cell.noise == share]) for share in shares]
        over_long = "" if name == LONG else _mean([line.to_long for line in own])
        overall = _mean([line.to_plain for line in own])
        count = f"{len(own)}{_MARK if any(line.diverged for line in own) else ''}"
        rows.append(_row([name, count, overall, *by_share, signs.count(1), signs.count(-1), over_long]))
    return "\n".join(rows)


def _mean(differences: Sequence[Difference]) -> str:
    """Over settings, whose choices are made anew, so that the interval has the error of choosing as well."""
    known = [one.mean for one in differences if one.pairs]
    return str(mean_difference(known)) if len(known) > 1 else f"{known[0]:+.2f}" if known else "–"


def _row(values: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _table(found: Sequence[Line]) -> str:
    rows = ["| setting | method | rate | epochs | errors, % | to vanilla | to vanilla, 3 × as long | Δ |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for line in found:
        mark, diverged = "*" if line.choice.at_bounds else "", _MARK if line.diverged else ""
        sharpness = [row["sharpness"] for row in line.rows.values() if row["sharpness"] is not None]
        rows.append(
            f"| {line.unit.cell.name} | {line.unit.name} | {line.choice.rate:.3g}{mark} | {line.choice.epochs} "
            f"| {line.error:.2f}{diverged} | {line.to_plain if line.unit.name != REFERENCE else ''} "
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


def _diverged(found: Sequence[Line], units: Sequence[Unit], records: Records) -> list[str]:
    """Seeds, and whole methods, without a result: what is left is the better part."""
    some = [f"{line.unit.cell.name}, {line.unit.name}: {line.diverged}" for line in found if line.diverged]
    rates = [unit for unit in units if unit.failed(records)]
    seeds = [one for one in units if one not in rates and one.complete(records) and not one.finished(records)]
    notes = []
    if some:
        notes.append(
            f"{_MARK} Of {units[0].seeds} seeds these many diverged. Means and differences are those of the others, "
            f"which flatters the method, and where it is vanilla its rivals: {'; '.join(some)}."
        )
    for what, left in (("at every rate", rates), ("at all seeds", seeds)):
        if left:
            named = "; ".join(f"{unit.cell.name}, {unit.name}" for unit in left)
            notes.append(f"Diverged {what}, and in no table: {named}.")
    return notes


def _conflicts(records: Records) -> list[str]:
    """Trainings that are recorded again with another result."""
    keys = sorted(records.conflicts)
    if not keys:
        return []
    more = f"; and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return [
        "Recorded again with another result, where the first counts, in the order of the files' names: "
        f"{'; '.join(keys[:SHOWN])}{more}."
    ]


def write_report(units: Sequence[Unit], records: Records, folder: Path) -> str:
    """``majority.md``, ``majority-curves.svg`` and ``majority-sharpness.svg`` in ``folder``; the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(units, records)
    (folder / "majority.md").write_text(text + "\n", encoding="utf-8")
    found = lines(units, records)
    for name, figure in (("curves", curves_figure(found)), ("sharpness", sharpness_figure(found))):
        (folder / f"majority-{name}.svg").write_bytes(render(figure, "svg"))
    return text
