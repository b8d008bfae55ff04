"""Python processes of this installation: the worker, computations, checks."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import collegium

#: The folder that the package is imported from: an environment's site-packages, or a checkout.
_ROOT = Path(str(collegium.__file__)).absolute().parent.parent


def python(*arguments: str) -> list[str]:
    """A command line for this interpreter. Modules in the working directory are not imported (``-P``)."""
    return [sys.executable, "-P", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with some variables changed; a checkout's packages can be imported in it."""
    inherited = dict(os.environ)
    installed = {Path(sysconfig.get_path(name)).absolute() for name in ("purelib", "platlib")}
    if _ROOT not in installed:
        paths = [str(_ROOT), *filter(None, [inherited.get("PYTHONPATH")])]
        inherited["PYTHONPATH"] = os.pathsep.join(paths)
    return inherited | variables
