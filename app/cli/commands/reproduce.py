"""``collegium reproduce``: figures and tables of the papers, computed again by a process of its own."""

from __future__ import annotations

import signal
import subprocess
from typing import Annotated

import typer

from collegium.app.cli.errors import FAILED, USAGE, Stop, exit_with_status
from collegium.app.settings import load_settings
from collegium.jobs.subprocesses import environment, python

#: What each computes, and the program that does.
SEARCH = ("figure2", "figure3", "theorem1", "lemma1", "alpha", "table1", "table2", "network")
TRAIN = ("figure4", "table5", "noise", "t5", "majority")
ALIASES = {"label-noise": "noise"}


@exit_with_status
def reproduce(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help=f"{', '.join(SEARCH)}; by training: {', '.join(TRAIN)}.")],
) -> None:
    """Print a figure or table of the papers with the published values, and write a plot.

    What follows the name is passed on: `collegium reproduce table5 --data digits`,
    `collegium reproduce figure3 --help`.
    """
    what = ALIASES.get(what, what)
    program = "collegium.search.reproduce" if what in SEARCH else "collegium.train.reproduce" if what in TRAIN else None
    if program is None:
        raise Stop(USAGE, f"{what!r} is not known", f"there are {', '.join((*SEARCH, *TRAIN))}")
    folder = environment(COLLEGIUM_DATA_DIR=str(load_settings().data_dir))
    process = subprocess.Popen(python("-m", program, what, *context.args), env=folder)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    raise typer.Exit(status if status >= 0 else FAILED)
