"""``collegium describe``: a module as the baseline of a search, by a process of its own."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from collegium.app.cli.connection import AsJson
from collegium.app.cli.errors import FAILED, exit_with_status
from collegium.jobs.subprocesses import environment, python


@exit_with_status
def describe(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="torchvision:NAME, timm:NAME, transformers:NAME_OR_FOLDER, or package.module:factory.",
        ),
    ],
    shape: Annotated[
        str | None, typer.Option("--input", metavar="SHAPE", help="Shape of one sample, such as 3x224x224.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Token ids of one sample.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the baseline.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write the specification of a search here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which parts of a module can be split, and write it as a specification.

    The module's code is imported on this machine, from installed packages or the working directory. What is
    written is plain data: the service is never sent code. An input of one sample is made of zeros.

    Examples: collegium describe torchvision:resnext50_32x4d; collegium describe transformers:./my-model --tokens 64;
    collegium describe package.models:make --input 3x32x32 --to spec.json
    """
    options = {"--input": shape, "--tokens": tokens, "--name": name, "--to": to}
    given = [part for key, value in options.items() if value is not None for part in (key, str(value))]
    flags = ["--json"] if as_json else []
    command = python("-m", "collegium.search.describe", *given, *flags, "--", source)
    process = subprocess.Popen(command, env=environment())
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    raise typer.Exit(status if status >= 0 else FAILED)
