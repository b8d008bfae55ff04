"""The ``collegium`` command. Nothing here loads torch: what needs it is started as a process of its own."""

from __future__ import annotations


def main() -> None:
    """Entry point of the installed command."""
    from collegium.streams import prepare

    prepare()
    from collegium.app.cli.root import app

    app(prog_name="collegium")
