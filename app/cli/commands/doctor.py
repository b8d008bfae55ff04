"""``collegium doctor``: what is installed, what is reachable, what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.markup import escape

from collegium.app.cli.connection import AsJson
from collegium.app.cli.errors import FAILED, guarded, out
from collegium.app.settings import load_settings

_SIGNS = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}


@guarded
def doctor(as_json: AsJson = False) -> None:
    """Look at everything the service needs; exit status 1 where something is wrong."""
    from collegium.app.local.doctor import examine

    findings = []
    for finding in examine(load_settings()):
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
