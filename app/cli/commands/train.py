"""``collegium train`` and ``collegium study``: post a specification and follow it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from collegium.app.cli.connection import AsJson, Key, Server, connect, follow_job, report_end
from collegium.app.cli.errors import OF_STATUS, USAGE, Stop, err, exit_with_status, out
from collegium.app.cli.specs import put, put_input, read_object
from collegium.app.cli.tables.jobs import result_view
from collegium.train.methods import METHODS

_GROUPING = re.compile(r"\d{1,7}[x×]\d{1,7}(:\d{1,7})*")
Source = Annotated[str, typer.Argument(metavar="SPEC|-", help="A JSON file, or - for standard input.")]
Wait = Annotated[bool, typer.Option(help="Follow it to its end; without, print the job's id and return.")]
To = Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="Download the files here when it is done.")]


@exit_with_status
def train(
    source: Annotated[
        str | None, typer.Argument(metavar="[SPEC|-]", help="A JSON file, or - for standard input.")
    ] = None,
    search: Annotated[str | None, typer.Option(help="Train the answer of this finished search.")] = None,
    choice: Annotated[
        str | None, typer.Option(help="Which: primal, dual, recommended, tied_primal, tied_dual or baseline.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Train this preset.")] = None,
    shape: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="With --preset: samples, in place of its own.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="With --preset: width of a member.")] = None,
    multiplicity: Annotated[int | None, typer.Option(help="With --preset: number of members.")] = None,
    stages: Annotated[
        str | None,
        typer.Option(metavar="MxN,…", help="With --preset: members of each stage and their widths there."),
    ] = None,
    method: Annotated[str | None, typer.Option(help=f"{', '.join(METHODS.names)}.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set's name or id.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name.")] = None,
    epochs: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    wait: Wait = True,
    to: To = None,
    server: Server = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Train an architecture, or a search's answer, at a service.

    Give a specification, or options, or both: options override the specification's fields.

    Example: collegium train --search ID --choice primal --data digits --method majority --to model

    Example: collegium train --preset resnext29-1x128d --stages 19x8,20x14,26x21 --data cifar10
    """
    document = read_object(source) if source else {}
    if search is None and preset is None and source is None:
        raise Stop(USAGE, "name what is to be trained: a specification, --search ID or --preset NAME")
    for path, value in {
        "architecture.search": search,
        "architecture.choice": choice,
        "architecture.baseline": {"preset": preset} if preset else None,
        "architecture.width": width,
        "architecture.multiplicity": multiplicity,
        "architecture.stages": None if stages is None else _stage_groupings(stages),
        "method": method,
        "seed": seed,
    }.items():
        put(document, path, value)
    put_input(document.get("architecture", {}), shape)
    _named(document, "data", data)
    _named(document, "recipe", recipe)
    if epochs is not None:
        _named(document, "recipe", None)
        put(document, "recipe.epochs", epochs)
    if "data" not in document:
        raise Stop(USAGE, "name the data to train on, with --data or in the specification")
    _run("training", document, wait, to, server, key, as_json)


@exit_with_status
def study(
    source: Source,
    wait: Wait = True,
    to: To = None,
    server: Server = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods and architectures over several seeds, at a service."""
    _run("study", read_object(source), wait, to, server, key, as_json)


def _stage_groupings(text: str) -> list[dict[str, Any]]:
    """``11x7,10x14:20`` as groupings: members and the width of their layers, or the width of each layer."""
    found = []
    for part in text.split(","):
        match = _GROUPING.fullmatch(part.strip())
        if match is None:
            raise Stop(USAGE, f"a stage is MxN, such as 11x7, or MxN1:N2 with the width of each layer; not {part!r}")
        multiplicity, *widths = map(int, re.split("[x×:]", match.group()))
        member = {"width": widths[0]} if len(widths) == 1 else {"widths": widths}
        found.append({**member, "multiplicity": multiplicity})
    return found


def _named(document: dict[str, Any], field: str, name: str | None) -> None:
    """Set the name of a field that may be given as a bare name or as an object."""
    if isinstance(document.get(field), str):
        document[field] = {"name": document[field]}
    put(document, f"{field}.name", name)


def _run(
    kind: str,
    document: dict[str, Any],
    wait: bool,
    to: Path | None,
    server: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    from collegium.app.client.transfer import download

    with connect(server, key) as client:
        job = client.submit(kind, document)
        if not wait:
            print(json.dumps(job, indent=2) if as_json else job["id"])
            return
        job = follow_job(client, job, as_json)
        if to is not None:
            for artifact in client.artifacts(job["id"]):
                path = download(client, artifact, to)
                err.print(f"[dim]{path}[/]", soft_wrap=True)
    if as_json:
        print(json.dumps(job, indent=2))
    elif job["result"]:
        out.print(result_view(kind, job["result"]))
    report_end(job)
    raise typer.Exit(OF_STATUS[job["status"]])
