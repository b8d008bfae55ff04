"""A network's branches as a table, for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Protocol

from collegium.counted import counted
from collegium.search.networks.families.network_layers import Conv, Layer, Linear
from collegium.search.networks.network import Measure
from collegium.search.text import grouped

HEADS = ("", "part", "count", "layers", "widths", "parameters", "of all", "FLOPs", "of all", "")
#: Columns of numbers, which are aligned to the right.
NUMBERS = (2, 5, 6, 7, 8)


class Table(Protocol):
    """What is shown of a ``NetworkBaseline``."""

    name: Any
    input: Any
    outputs: Any
    branches: Any
    parameters: Any
    flops: Any
    attention: Any
    graph: Any
    no_graph: Any

    def fixed_cost(self, measure: Measure) -> int:
        """What no grouping changes."""
        ...


def text_table(baseline: Table) -> str:
    """The table in plain text, with one line about the whole above it."""
    rows = [HEADS, *_rows(baseline)]
    wide = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = [
        "  ".join(
            cell.rjust(wide[column]) if column in NUMBERS else cell.ljust(wide[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]
    attention = ["", "attention", *(f"  {line}" for line in _attention(baseline))] if baseline.attention else []
    return "\n".join([_title(baseline), "", *lines, *attention, "", _summary(baseline)])


def html_table(baseline: Table) -> str:
    """The table as HTML; every text in it is escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADS)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{"right" if column in NUMBERS else "left"}">{escape(cell)}</td>'
            for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in _rows(baseline)
    )
    attention = "".join(f"<li>{escape(line)}</li>" for line in _attention(baseline))
    listed = f"<p>Attention</p><ul>{attention}</ul>" if attention else ""
    return (
        f"<p>{escape(_title(baseline))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{listed}"
        f"<p>{escape(_summary(baseline))}</p>"
    )


def _attention(baseline: Table) -> list[str]:
    """A line for each kind of block: its heads, and why they have no curve, or the baseline whose search gives it."""
    return [
        f"{block.place}: {block}; "
        + (block.why_not or f"the curve over the width of heads: attention[{index}].as_baseline(min_width=…)")
        for index, block in enumerate(baseline.attention)
    ]


def _title(baseline: Table) -> str:
    sample = "×".join(map(str, baseline.input)) or "a number"
    return (
        f"{baseline.name}: {_counted(baseline.parameters, 'parameter')}, {_counted(baseline.flops, 'FLOP')} for one "
        f"sample of {sample}, {_counted(baseline.outputs, 'output')}"
    )


def _summary(baseline: Table) -> str:
    built = "; the service can build and train it" if baseline.graph is not None else ""
    if baseline.no_graph is not None:
        built = f"; the service cannot build it: {baseline.no_graph}"
    return _split(baseline) + built


def _split(baseline: Table) -> str:
    free = [branch for branch in baseline.branches if branch.splittable]
    if not free:
        return "nothing here can be split"
    places = sum(branch.count for branch in free)
    parameters = _share(baseline.parameters - baseline.fixed_cost("parameters"), baseline.parameters)
    flops = _share(baseline.flops - baseline.fixed_cost("flops"), baseline.flops)
    split = f"{counted(places, 'place')} can be split, with {parameters} of the parameters and {flops} of the FLOPs"
    return f"{split}; the rest is fixed"


def _rows(baseline: Table) -> Iterator[tuple[str, ...]]:
    """One for each branch and each reason; the branches that can be split first."""
    for branch in sorted(baseline.branches, key=lambda branch: not branch.splittable):
        parameters, flops = (branch.count * value for value in (branch.parameters, branch.flops))
        yield (
            "split" if branch.splittable else "fixed",
            branch.name,
            str(branch.count),
            _layers(branch),
            _widths(branch),
            grouped(parameters),
            _share(parameters, baseline.parameters),
            grouped(flops),
            _share(flops, baseline.flops),
            branch.why or _members(branch),
        )


def _members(branch: Any) -> str:
    return f"{branch.multiplicity} members already" if branch.multiplicity > 1 else ""


def _layers(branch: Any) -> str:
    """The kernels in order, such as ``1×1 3×3 1×1``; equal ones in a row once."""
    return _runs([text for layer in branch.layers if (text := _kernel(layer))], " ")


def _kernel(layer: Layer) -> str:
    match layer:
        case Conv():
            size = "×".join(map(str, layer.kernel))
            return f"{size} depthwise" if layer.depthwise else f"{size}/{layer.groups}" if layer.groups > 1 else size
        case Linear():
            return "linear"
    return ""


def _widths(branch: Any) -> str:
    return _runs([str(width) for width in branch.widths], "→")


def _runs(texts: list[str], joint: str) -> str:
    """``a b b b b c`` as ``a b (4) c``; up to three equal ones are written out."""
    found: list[tuple[str, int]] = []
    for text in texts:
        if found and found[-1][0] == text:
            found[-1] = (text, found[-1][1] + 1)
        else:
            found.append((text, 1))
    parts: list[str] = []
    for text, times in found:
        parts += [text] * times if times <= 3 else [f"{text} ({times})"]
    return joint.join(parts)


def _counted(value: int, noun: str) -> str:
    return counted(value, noun, written=grouped(value))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
