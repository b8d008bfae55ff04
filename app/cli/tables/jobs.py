"""Jobs and their results as text."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from collegium.app.cli.tables.formatting import ago, grid, status
from collegium.app.cli.tables.search import search_table
from collegium.app.cli.tables.training import study_table, training_table
from collegium.counted import counted

_LONGEST = 80


def job_name(job: dict[str, Any]) -> str:
    """A job's subject in a few words."""
    spec = job.get("spec") or {}
    if job["kind"] == "study":
        title: str = spec.get("title") or counted(len(spec.get("architectures", [])), "architecture")
        return title[:_LONGEST]
    architecture = spec.get("architecture") or {}
    baseline = spec.get("baseline") or architecture.get("baseline") or {}
    named = (*map(baseline.get, ("preset", "name", "family")), architecture.get("transformer"), "")
    name = next(each for each in named if each is not None)[:_LONGEST]
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
    """One job: its state, its failure, its result."""
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
    """The result of a job of any kind."""
    views = {"search": search_table, "training": training_table, "study": study_table}
    return views[kind](result) if kind in views else Text(str(result))
