"""``collegium serve``, ``collegium doctor`` and ``collegium migrate``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from collegium.app.cli.connection import AsJson, Home, with_home
from collegium.app.cli.errors import FAILED, UNREACHABLE, USAGE, Stop, exit_with_status, out, unusable
from collegium.app.settings import Settings, load_settings

_SIGNS = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}


@exit_with_status
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8321")] = None,
    home: Home = None,
    worker: Annotated[bool, typer.Option(help="Start a worker with the API.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show requests and the worker's log.")] = False,
) -> None:
    """Start the service on this machine: API, web page and worker.

    Everything is kept in one folder, which --home names. Ctrl-C ends API and worker; running jobs are given back
    and go on when the service is started again. With --no-worker it is the API alone, for use with workers that
    are started elsewhere with `celery -A collegium.worker worker`.
    """
    settings = load_settings(host=host, port=port, home=home)
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise unusable(error) from error
    _prepare_database(settings, home)

    from collegium.app.local.embedded import PortBusy, WorkerProcess, listen, run_server

    try:
        listener = listen(settings)
    except PortBusy as error:
        raise Stop(UNREACHABLE, str(error), "end the process that uses it, or name another with --port") from error
    except OSError as error:
        raise Stop(USAGE, str(error)) from error
    port = listener.getsockname()[1]
    url = f"http://{settings.address}:{port}"
    child = WorkerProcess(settings, None if verbose else settings.home / "worker.log") if worker else None

    def started() -> None:
        out.print(f"collegium is at [bold]{url}[/]", soft_wrap=True)
        where = "its worker logs to " + str(settings.home / "worker.log") if child and not verbose else ""
        out.print(f"[dim]home {settings.home}; {where + '; ' if where else ''}Ctrl-C ends it[/]", soft_wrap=True)

    if child is not None:
        child.start()
    try:
        run_server(settings, listener, started, access_log=verbose)
    finally:
        if child is not None:
            child.stop()
    out.print("collegium has ended")


@exit_with_status
def doctor(home: Home = None, as_json: AsJson = False) -> None:
    """Check everything that the service needs.

    Exit status 1 where something is wrong.
    """
    from collegium.app.local.doctor import examine

    findings = []
    for found in examine(load_settings(home=home)):
        finding = replace(found, message=with_home(found.message, home), remedy=with_home(found.remedy, home))
        findings.append(finding)
        if not as_json:
            out.print(
                f"{_SIGNS[finding.state]} [bold]{finding.subject:<10}[/] {escape(finding.message)}", soft_wrap=True
            )
            if finding.remedy:
                out.print(f"             [dim]{escape(finding.remedy)}[/]", soft_wrap=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    wrong = any(finding.state == "wrong" for finding in findings)
    raise typer.Exit(FAILED if wrong else 0)


@exit_with_status
def migrate(home: Home = None) -> None:
    """Bring the database up to this version's schema."""
    settings = load_settings(home=home)
    _upgrade(settings)

    from collegium.jobs.database.migrate import head

    out.print(f"the database is at revision {head()}")


def _prepare_database(settings: Settings, home: Path | None) -> None:
    from collegium.app.http.auth import NoKeys, check_bind
    from collegium.jobs.database.engine import open_engine
    from collegium.jobs.store import JobStore

    _upgrade(settings)
    engine = open_engine(settings.database_url)
    try:
        check_bind(settings, JobStore(engine))
    except NoKeys as error:
        raise Stop(USAGE, with_home(str(error), home)) from error
    finally:
        engine.dispose()


def _upgrade(settings: Settings) -> None:
    from collegium.jobs.database.engine import UNAVAILABLE, why
    from collegium.jobs.database.migrate import upgrade
    from collegium.jobs.errors import SchemaMismatch

    try:
        upgrade(settings.database_url)
    except UNAVAILABLE as error:
        raise Stop(UNREACHABLE, f"the database does not answer: {why(error)}", "see COLLEGIUM_DATABASE_URL") from error
    except SchemaMismatch as error:
        raise Stop(USAGE, str(error), "install a newer collegium, or use another database") from error
    except OSError as error:
        raise unusable(error) from error
    except ValueError as error:
        raise Stop(USAGE, f"COLLEGIUM_DATABASE_URL: {error}") from error
