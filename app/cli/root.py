"""All commands of ``collegium``."""

from __future__ import annotations

from typing import Annotated

import typer

from collegium.app.cli.commands import data, keys
from collegium.app.cli.commands.doctor import doctor
from collegium.app.cli.commands.jobs import cancel, download, jobs, show, watch
from collegium.app.cli.commands.reproduce import reproduce
from collegium.app.cli.commands.search import presets, search
from collegium.app.cli.commands.serve import migrate, serve
from collegium.app.cli.commands.train import study, train
from collegium.app.cli.errors import EPILOG
from collegium.app.version import software_version

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="Which m members of which width n should a network be split into? Finds the answer, and trains it.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"collegium {software_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for panel, commands in {
    "Search and train": (search, presets, train, study),
    "Jobs at a service": (jobs, show, watch, cancel, download),
    "The service": (serve, doctor, migrate),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=EPILOG, no_args_is_help=command is search)(command)
app.add_typer(data.app, name="data", rich_help_panel="Jobs at a service")
app.add_typer(keys.app, name="keys", rich_help_panel="The service")
app.command(
    rich_help_panel="Search and train",
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)(reproduce)
