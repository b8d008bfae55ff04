"""``collegium data``: the user's own data sets at a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from collegium.app.cli.connection import AsJson, Key, Server, connect
from collegium.app.cli.errors import USAGE, Stop, err, exit_with_status, out
from collegium.app.cli.root import EPILOG
from collegium.app.cli.tables.formatting import ago, count, grid

app = typer.Typer(no_args_is_help=True, help="Add, list and delete data sets.", epilog=EPILOG, add_completion=False)

KINDS = {".npz": "npz", ".safetensors": "safetensors"}


@app.command()
@exit_with_status
def add(
    file: Annotated[Path, typer.Argument(help="An .npz or .safetensors file with x_train, y_train, x_test, y_test.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    server: Server = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Send a data set. It is checked on arrival and stored once, under the hash of its bytes."""
    from collegium.app.client.transfer import upload

    if not file.is_file():
        raise Stop(USAGE, f"there is no file {file}")
    if file.suffix not in KINDS:
        raise Stop(USAGE, f"{file} ends in neither .npz nor .safetensors")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        connect(server, key) as client,
        Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress,
    ):
        task = progress.add_task(escape(file.name), total=file.stat().st_size)
        dataset = upload(
            client, file, name or file.stem, KINDS[file.suffix], lambda moved: progress.advance(task, moved)
        )
    if as_json:
        print(json.dumps(dataset, indent=2))
    else:
        out.print(dataset["id"], soft_wrap=True)


@app.command("list")
@exit_with_status
def list_(server: Server = None, key: Key = None, as_json: AsJson = False) -> None:
    """List data sets, newest first."""
    with connect(server, key) as client:
        items = client.datasets()
    if as_json:
        print(json.dumps(items, indent=2))
        return
    table = grid("id", "name", "samples", "bytes", "added", left=2)
    for item in items:
        samples = item["summary"].get("train", 0) + item["summary"].get("test", 0)
        table.add_row(item["id"], escape(item["name"]), count(samples), count(item["bytes"]), ago(item["created_at"]))
    out.print(table if items else "no data sets")


@app.command()
@exit_with_status
def delete(
    dataset_id: Annotated[str, typer.Argument(metavar="ID", help="A data set's id.")],
    server: Server = None,
    key: Key = None,
) -> None:
    """Delete a data set that no waiting or running training names."""
    with connect(server, key) as client:
        client.delete_dataset(dataset_id)
    out.print(f"deleted {dataset_id}", soft_wrap=True)
