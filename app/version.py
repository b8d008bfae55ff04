"""The software's own version, which is part of every request's fingerprint."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import collegium


@cache
def software_version() -> str:
    """Version of the installed distribution, or of the checkout that holds this file."""
    try:
        return version("collegium")
    except PackageNotFoundError:
        project = Path(str(collegium.__file__)).absolute().parent.parent / "pyproject.toml"
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
