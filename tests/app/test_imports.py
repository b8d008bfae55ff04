"""What the API and the command line load: never torch, and the command line little else."""

from __future__ import annotations

import subprocess
import sys

import pytest

API = """
import sys, tempfile
from collegium.app.main import create_app
from collegium.app.settings import load_settings
app = create_app(load_settings(home=tempfile.mkdtemp()))
app.openapi()
"""
CLI = "import collegium.app.cli.root, sys"


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        (API, ["torch", "collegium.worker", "matplotlib", "sklearn", "transformers"]),
        (CLI, ["torch", "collegium.worker", "fastapi", "celery"]),
    ],
    ids=["api", "command line"],
)
def test_nothing_heavy_is_loaded(program: str, forbidden: list[str]) -> None:
    ending = f"\nprint([name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + ending], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
