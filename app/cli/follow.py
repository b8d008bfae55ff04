"""Progress on the terminal: a bar, or nothing where standard error is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from collegium.app.cli.errors import err
from collegium.app.cli.tables.jobs import failure_text
from collegium.app.client.client import Client, StreamedEvent
from collegium.search.progress import Report, discard


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Report]:
    """A function that takes a fraction and a message; the bar goes to standard error and leaves nothing behind."""
    if quiet or not err.is_terminal:
        yield discard
        return
    columns = (
        TextColumn("[bold]{task.fields[title]}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.description}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=1.0, title=title)
        yield lambda fraction, message: progress.update(task, completed=fraction, description=escape(message))


def follow_job(client: Client, job: dict[str, Any], quiet: bool = False) -> dict[str, Any]:
    """Follow a job to its end with a progress bar; the finished job. Ctrl-C leaves the job running."""
    if job["status"] in ("succeeded", "failed", "cancelled"):
        return job
    if not quiet:
        err.print(f"[dim]job {job['id']} at {client.url}[/]", soft_wrap=True)
    with progress_bar(job["kind"], quiet) as report:

        def show(event: StreamedEvent) -> None:
            if event.type == "progress":
                report(event.data["fraction"], event.data["message"])
            elif event.type == "state" and event.data["status"] == "queued":
                report(0.0, "waiting for a worker")

        return client.wait(job["id"], show)


def report_end(job: dict[str, Any]) -> None:
    """Print on standard error why a job did not succeed."""
    if job["failure"]:
        err.print(failure_text(job["failure"]))
    elif job["status"] == "cancelled":
        err.print(f"job {job['id']} was cancelled")
