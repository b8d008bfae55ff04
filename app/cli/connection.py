"""The options by which a command finds its service, or the service's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collegium.app.client.client import Client
from collegium.app.settings import load_settings

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


def connect(server: str | None, key: str | None) -> Client:
    """A client for the service that the options or the environment name."""
    settings = load_settings(server=server, api_key=key)
    return Client(settings.server_url, settings.api_key)
