"""The service that a command uses: the options that name it, and how a job there is followed on the terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from collegium.app.cli.errors import err
from collegium.app.cli.tables.jobs import failure_text
from collegium.app.client.client import Client, StreamedEvent
from collegium.app.settings import load_settings
from collegium.search.progress import Report, discard

Server = Annotated[
    str | None,
    typer.Option("--server", help="Address of the service. Default: COLLEGIUM_SERVER, or the one on this machine."),
]
Key = Annotated[str | None, typer.Option("--key", help="API key. Default: COLLEGIUM_API_KEY.", show_default=False)]
Home = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The service's folder. Default: COLLEGIUM_HOME, or ~/.collegium."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def with_home(text: str, home: Path | None) -> str:
    """The text, in which commands on the service's folder name the one that ``--home`` has named.

    >>> with_home("run `collegium migrate`", Path("/my data"))
    "run `collegium migrate --home '/my data'`"
    """
    if home is None:
        return text
    return re.sub(r"`(collegium (?:serve|migrate|keys create NAME))`", rf"`\1 --home {shlex.quote(str(home))}`", text)


def connect(server: str | None, key: str | None) -> Client:
    """A client for the service that the options or the environment name."""
    settings = load_settings(server=server, api_key=key)
    return Client(settings.server_url, settings.api_key)


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
