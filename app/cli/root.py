"""All commands of ``collegium``: a table of names, and the group that imports a command when it is run.

Help of the whole costs the import of typer alone; each command brings its own packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

EPILOG = "Exit status: 0 done · 1 failed · 2 wrong usage · 3 unreachable · 4 refused · 5 cancelled · 130 interrupted"

_SEARCH, _JOBS, _SERVICE = "Search and train", "Jobs at a service", "The service"
_NEEDS_ARGUMENTS = {"no_args_is_help": True}
_PASSES_ON = {
    "no_args_is_help": True,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
}


class Entry(NamedTuple):
    """One command: its place (``module:attribute`` in ``app.cli.commands``), its panel and its line in the help."""

    target: str
    panel: str
    summary: str
    options: Mapping[str, Any] = {}


COMMANDS: dict[str, Entry] = {
    "search": Entry(
        "search:search", _SEARCH, "Search the m × n grouping whose kernel has the smallest variance.", _NEEDS_ARGUMENTS
    ),
    "describe": Entry(
        "describe:describe",
        _SEARCH,
        "Show which parts of a module can be split, and write it as a specification.",
        _NEEDS_ARGUMENTS,
    ),
    "presets": Entry("search:presets", _SEARCH, "List the named architectures, or print one of them."),
    "train": Entry("train:train", _SEARCH, "Train an architecture, or a search's answer, at a service."),
    "study": Entry("train:study", _SEARCH, "Compare methods and architectures over several seeds, at a service."),
    "reproduce": Entry(
        "reproduce:reproduce",
        _SEARCH,
        "Print a figure or table of the papers with the published values, and write a plot.",
        _PASSES_ON,
    ),
    "jobs": Entry("jobs:jobs", _JOBS, "List jobs, newest first."),
    "show": Entry("jobs:show", _JOBS, "Show a job and its answer."),
    "watch": Entry("jobs:watch", _JOBS, "Follow a job to its end."),
    "cancel": Entry("jobs:cancel", _JOBS, "Ask a job, and everything below it, to end."),
    "download": Entry("jobs:download", _JOBS, "Download the files of a job."),
    "data": Entry("data:app", _JOBS, "Add, list and delete data sets."),
    "serve": Entry("serve:serve", _SERVICE, "Start the service on this machine: API, web page and worker."),
    "doctor": Entry("serve:doctor", _SERVICE, "Check everything that the service needs."),
    "migrate": Entry("serve:migrate", _SERVICE, "Bring the database up to this version's schema."),
    "keys": Entry("keys:app", _SERVICE, "Create, list and revoke API keys."),
}


def load_command(name: str) -> Any:
    """The command of this name, which is imported by this call."""
    entry = COMMANDS[name]
    module, _, attribute = entry.target.partition(":")
    found = getattr(import_module(f"collegium.app.cli.commands.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name, epilog=EPILOG, **entry.options)(found)
        found = single
    command = get_command(found)
    command.name = name
    return command


class _LazyGroup(TyperGroup):
    """Lists the table, and imports the one command that is named."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            self.add_command(load_command(args[0]), args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="Which m members of which width n should a network be split into? Finds the answer, and trains it.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from collegium.versions import software_version

        print(f"collegium {software_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
