"""The version of this software, and those of the packages on which a result depends."""

from __future__ import annotations

import platform
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def software_version() -> str:
    """Version of the installed distribution, or of the checkout that holds this file."""
    try:
        return version("collegium")
    except PackageNotFoundError:
        project = Path(__file__).absolute().parent.parent / "pyproject.toml"
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of this software, and of those of ``packages`` (distribution names) that are installed.

    >>> sorted(versions("numpy", "no-such-package"))
    ['collegium', 'numpy', 'python']
    """
    found = {"python": platform.python_version(), "collegium": software_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
