"""``collegium jobs``, ``show``, ``watch``, ``cancel`` and ``download``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from collegium.app.cli.connection import AsJson, Key, Server, connect, follow_job
from collegium.app.cli.errors import OF_STATUS, REFUSED, Stop, err, exit_with_status, out
from collegium.app.cli.tables.jobs import job_summary, jobs_table

JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id.")]


@exit_with_status
def jobs(
    kind: Annotated[Literal["search", "training", "study", "shard"] | None, typer.Option(help="Only these.")] = None,
    status: Annotated[
        Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"] | None,
        typer.Option(help="Only these."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 25,
    cursor: Annotated[str | None, typer.Option(help="Continue a list; it is printed below one.")] = None,
    server: Server = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connect(server, key) as client:
        page = client.jobs(kind=kind, status=status, limit=limit, cursor=cursor)
    if as_json:
        print(json.dumps(page, indent=2))
        return
    out.print(jobs_table(page["items"]) if page["items"] else "no jobs")
    if page["next_cursor"]:
        out.print(f"[dim]more with --cursor {page['next_cursor']}[/]", soft_wrap=True)


@exit_with_status
def show(job_id: JobId, server: Server = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show a job and its answer."""
    with connect(server, key) as client:
        job = client.job(job_id)
    if as_json:
        print(json.dumps(job, indent=2))
    else:
        out.print(job_summary(job))


@exit_with_status
def watch(job_id: JobId, server: Server = None, key: Key = None, as_json: AsJson = False) -> None:
    """Follow a job to its end.

    The exit status is that of the job; Ctrl-C leaves the job running. With --json each event is printed as one line
    as it comes.
    """
    with connect(server, key) as client:
        if as_json:
            for event in client.events(job_id):
                print(json.dumps({"id": event.seq, "event": event.type, "data": event.data}), flush=True)
            job = client.job(job_id)
        else:
            job = follow_job(client, client.job(job_id))
            out.print(job_summary(job))
    raise typer.Exit(OF_STATUS[job["status"]])


@exit_with_status
def cancel(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when it has ended.")] = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Ask a job, and everything below it, to end."""
    with connect(server, key) as client:
        job = client.cancel(job_id)
        if wait:
            job = client.wait(job_id)
    out.print(f"job {job['id']} is {job['status']}")


@exit_with_status
def download(
    job_id: JobId,
    folder: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Default: a folder with the job's id.")
    ] = None,
    name: Annotated[list[str] | None, typer.Option("--only", help="Only this file; may be repeated.")] = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Download the files of a job.

    An interrupted download is resumed where it stopped, and every hash is checked.
    """
    from collegium.app.client.transfer import download as fetch

    target = folder or Path(job_id)
    with connect(server, key) as client:
        found = client.artifacts(job_id)
        files = [one for one in found if not name or one["name"] in name]
        missing = set(name or ()) - {one["name"] for one in found}
        if missing or not files:
            status = client.job(job_id)["status"]
            what = f"no file {', '.join(sorted(missing))}" if missing else "no files"
            raise Stop(REFUSED, f"job {job_id} has {what}; it is {status}")
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
            for one in files:
                task = progress.add_task(escape(one["name"]), total=one["bytes"])
                path = fetch(client, one, target, lambda count, task=task: progress.advance(task, count))
                out.print(f"{path}  [dim]sha256 {one['sha256'][:16]}… checked[/]", soft_wrap=True)
