"""Python processes of this installation: the worker, computations, checks."""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib import resources
from pathlib import Path

#: The line that the embedded worker prints once it takes jobs.
WORKER_READY = "collegium worker ready"

#: The folder that the package is imported from: an environment's site-packages, or a checkout.
_ROOT = Path(str(resources.files("collegium"))).absolute().parent


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
