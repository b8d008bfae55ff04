"""What the API and the command line load: never torch, and the command line little else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from collegium.app.cli.root import COMMANDS

API = """
import sys, tempfile
from collegium.app.main import create_app
from collegium.app.settings import load_settings
app = create_app(load_settings(home=tempfile.mkdtemp()))
app.openapi()
"""
RUN = """
import contextlib, io, sys
from collegium.app.cli import main
sys.argv = ["collegium", *{arguments}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""
#: One process for all commands: each child begins with what the command line itself has loaded.
EACH = """
import contextlib, io, json, os, sys, typer
from collegium.app.cli import main
from collegium.app.cli.root import COMMANDS
for name in COMMANDS:
    if os.fork() == 0:
        sys.argv = ["collegium", name, "--help"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main()
        print(json.dumps([name, list(sys.modules)]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
COMPUTING = {"torch", "matplotlib", "sklearn", "transformers", "collegium.worker"}
SERVING = {"fastapi", "celery", "sqlalchemy", "uvicorn"}


def loaded(program: str) -> set[str]:
    """The modules that are there when the program has run."""
    ending = "\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program + ending], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_the_api_loads_nothing_that_computes() -> None:
    modules = loaded(API)
    assert "fastapi" in modules
    assert modules & COMPUTING == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []], ids=["help", "version", "nothing"])
def test_help_of_the_whole_imports_no_command(arguments: list[str]) -> None:
    modules = loaded(RUN.format(arguments=arguments))
    assert "typer" in modules
    assert modules & (COMPUTING | SERVING) == set()
    assert modules & {"pydantic", "httpx", "numpy", "rich.progress"} == set()
    assert [name for name in modules if name.startswith("collegium.app.cli.")] == ["collegium.app.cli.root"]


def test_help_of_a_command_imports_that_command_alone() -> None:
    done = subprocess.run([sys.executable, "-c", EACH], capture_output=True, text=True, check=True)
    found = dict(map(json.loads, done.stdout.splitlines()))
    assert list(found) == list(COMMANDS)
    for name, modules in found.items():
        commands = [module for module in modules if module.startswith("collegium.app.cli.commands.")]
        assert commands == ["collegium.app.cli.commands." + COMMANDS[name].target.partition(":")[0]]
        assert set(modules) & (COMPUTING | SERVING) == set()
