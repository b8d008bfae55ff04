"""Answers as tables for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

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


def job_name(job: dict[str, Any]) -> str:
    """What a job is about, in a few words."""
    spec = job.get("spec") or {}
    if job["kind"] == "study":
        return spec.get("title") or f"{len(spec.get('architectures', []))} architectures"
    architecture = spec.get("architecture") or {}
    baseline = spec.get("baseline") or architecture.get("baseline") or {}
    name = baseline.get("preset") or baseline.get("family") or architecture.get("transformer") or ""
    if job["kind"] == "training":
        return f"{spec.get('method', '')} {name} {(spec.get('data') or {}).get('name', '')[:16]}"
    return name


def jobs_table(items: list[dict[str, Any]]) -> Table:
    """A page of jobs."""
    table = grid("id", "kind", "status", "about", "progress", "created", left=4)
    for job in items:
        share = f"{100 * job['progress']['fraction']:.0f} %"
        table.add_row(
            job["id"], job["kind"], status(job["status"]), escape(job_name(job)), share, ago(job["created_at"])
        )
    return table


def job_summary(job: dict[str, Any]) -> RenderableType:
    """One job: its state, its failure, its answer."""
    head = Table.grid(padding=(0, 2))
    for name, value in (
        ("job", job["id"]),
        ("kind", job["kind"]),
        ("about", escape(job_name(job))),
        ("status", status(job["status"])),
        ("progress", f"{100 * job['progress']['fraction']:.0f} %  {escape(job['progress']['message'])}"),
        ("attempt", f"{job['attempt']} of at most {job['max_attempts']}"),
        ("created", f"{job['created_at']}  ({ago(job['created_at'])})"),
        ("finished", job["finished_at"] or "–"),
    ):
        head.add_row(f"[dim]{name}[/]", value)
    parts: list[RenderableType] = [head]
    if job["failure"]:
        parts += [Text(), failure_text(job["failure"])]
    if job["result"]:
        parts += [Text(), result_view(job["kind"], job["result"])]
    return Group(*parts)


def failure_text(failure: dict[str, Any]) -> Text:
    """A failure, what to do about it, and the end of the log."""
    text = Text.assemble((failure["kind"].replace("_", " "), "bold red"), f"  {failure['message']}")
    if failure.get("remedy"):
        text.append(f"\n{failure['remedy']}")
    if failure.get("log_tail"):
        text.append("\n\n" + "\n".join(failure["log_tail"].splitlines()[-15:]), style="dim")
    return text


def result_view(kind: str, result: dict[str, Any]) -> RenderableType:
    """The answer of a job of any kind."""
    from app.cli.search_table import search_table
    from app.cli.training_table import study_table, training_table

    views = {"search": search_table, "training": training_table, "study": study_table}
    return views[kind](result) if kind in views else Text(str(result))
