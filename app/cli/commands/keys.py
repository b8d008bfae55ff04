"""``collegium keys``: the keys that the service admits. Works on the database, so it needs no service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from collegium.app.cli.connection import AsJson, Home, with_home
from collegium.app.cli.errors import REFUSED, UNREACHABLE, USAGE, Stop, err, exit_with_status, out, unusable
from collegium.app.cli.root import EPILOG
from collegium.app.cli.tables.formatting import ago, grid
from collegium.app.settings import load_settings

if TYPE_CHECKING:
    from collegium.jobs.store import JobStore

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.", epilog=EPILOG, add_completion=False)


@app.command()
@exit_with_status
def create(
    name: Annotated[str, typer.Argument(help="A name for the key, such as its user or its use.")],
    if_none: Annotated[bool, typer.Option("--if-none", help="Only where there is no key at all.")] = False,
    home: Home = None,
) -> None:
    """Make a key and print it. It is stored hashed and cannot be shown again.

    From the first key on every request needs one.
    """
    with _store(home) as store:
        if if_none and store.has_keys():
            err.print("there is a key already")
            return
        try:
            key, secret = store.add_key(name)
        except ValueError as error:
            raise Stop(USAGE, str(error)) from error
    err.print(f"[dim]key {key.id} for {escape(key.name)}:[/]")
    print(secret)


@app.command("list")
@exit_with_status
def list_(home: Home = None, as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    from collegium.app.services.views import timestamp

    with _store(home) as store:
        keys = store.list_keys()
    rows = [{"id": key.id, "name": key.name, "created_at": timestamp(key.created_at)} for key in keys]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = grid("id", "name", "created", left=3)
    for row in rows:
        table.add_row(row["id"], escape(row["name"] or ""), ago(row["created_at"]))
    out.print(table if rows else "no keys")


@app.command()
@exit_with_status
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `collegium keys list` shows it.")], home: Home = None
) -> None:
    """Revoke a key. It is refused from the next request on."""
    with _store(home) as store:
        if not store.revoke_key(key_id):
            raise Stop(REFUSED, f"there is no key {key_id}")
        last = not store.has_keys()
    out.print(f"revoked {key_id}")
    if last:
        err.print("that was the last key: a service on this machine's own address now needs none")


@contextmanager
def _store(home: Path | None) -> Iterator[JobStore]:
    from collegium.jobs.database.engine import UNAVAILABLE, open_engine, why
    from collegium.jobs.database.migrate import check
    from collegium.jobs.errors import SchemaMismatch
    from collegium.jobs.store import JobStore

    settings = load_settings(home=home)
    try:
        engine = open_engine(settings.database_url)
    except OSError as error:
        raise unusable(error) from error
    try:
        check(engine)
        yield JobStore(engine)
    except UNAVAILABLE as error:
        raise Stop(UNREACHABLE, f"the database does not answer: {why(error)}", "see COLLEGIUM_DATABASE_URL") from error
    except SchemaMismatch as error:
        raise Stop(USAGE, with_home(str(error), home)) from error
    finally:
        engine.dispose()
